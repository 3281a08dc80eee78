using Microsoft.Playwright;

namespace LoraSharp.Server.Tests;

/// <summary>A headless Chromium of this machine, started once for a class of tests; they are skipped where there is none.</summary>
public sealed class ChromiumBrowser : IAsyncLifetime
{
    /// <summary>Names the program where it lies elsewhere.</summary>
    public const string Variable = "LORASHARP_CHROMIUM";

    private static readonly string[] Places =
    [
        "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", @"C:\Program Files\Google\Chrome\Application\chrome.exe",
    ];

    private IPlaywright? _playwright;
    private IBrowser? _browser;

    public async ValueTask InitializeAsync()
    {
        string? program = Places.Prepend(Environment.GetEnvironmentVariable(Variable)).FirstOrDefault(File.Exists);
        if (program is not null)
        {
            _playwright = await Playwright.CreateAsync();

            // Without its sandbox, which needs more than a container's root has; it opens our own page alone.
            _browser = await _playwright.Chromium.LaunchAsync(new BrowserTypeLaunchOptions { ExecutablePath = program, Args = ["--no-sandbox"] });
        }
    }

    /// <summary>A fresh profile of its own.</summary>
    internal async Task<OpenPage> OpenAsync(RunningServer server, int width = 1280, int height = 800, ColorScheme scheme = ColorScheme.Light)
    {
        Assert.SkipWhen(_browser is null, $"no Chromium found: install it (apt-get install chromium) or name it in {Variable}");
        IBrowserContext context = await _browser!.NewContextAsync(new BrowserNewContextOptions
        {
            ViewportSize = new ViewportSize { Width = width, Height = height },
            ColorScheme = scheme,
            BaseURL = server.Client.BaseAddress!.ToString(),
        });
        context.SetDefaultTimeout(15_000);
        var opened = new OpenPage(await context.NewPageAsync(), context);
        await opened.Page.GotoAsync("/");
        return opened;
    }

    public async ValueTask DisposeAsync()
    {
        if (_browser is not null)
        {
            await _browser.DisposeAsync();
        }

        _playwright?.Dispose();
    }

    /// <summary>A page, and what went on in it that should not: errors of scripts, of the policy, and addresses elsewhere.</summary>
    internal sealed class OpenPage : IAsyncDisposable
    {
        private readonly IBrowserContext _context;

        public OpenPage(IPage page, IBrowserContext context)
        {
            Page = page;
            _context = context;
            page.Console += (_, message) => Add(message.Type == "error" && !message.Text.Contains("401", StringComparison.Ordinal) && !message.Text.Contains("400", StringComparison.Ordinal), message.Text);
            page.PageError += (_, error) => Add(true, error);
            page.Request += (_, request) => Requests.Add(request.Url);
        }

        public IPage Page { get; }

        public List<string> Faults { get; } = [];

        public List<string> Requests { get; } = [];

        public async ValueTask DisposeAsync() => await _context.DisposeAsync();

        private void Add(bool bad, string text)
        {
            if (bad)
            {
                Faults.Add(text);
            }
        }
    }
}

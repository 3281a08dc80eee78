using System.Globalization;
using System.Text.RegularExpressions;
using LoraSharp.Inference;
using Microsoft.Playwright;
using static Microsoft.Playwright.Assertions;

namespace LoraSharp.Server.Tests;

/// <summary>The page in a real browser, over the embedded model and an adapter with random factors.</summary>
public sealed class PlaygroundTests(ChromiumBrowser browser, PlaygroundTests.AdapterFolder adapter) : IClassFixture<ChromiumBrowser>, IClassFixture<PlaygroundTests.AdapterFolder>
{
    private const string Question = "Say hello.";

    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    private Dictionary<string, string> Adapters => new() { ["twist"] = adapter.Path };

    [Fact]
    public async Task Base_and_adapter_answer_side_by_side_what_the_plain_generator_says()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, Adapters);
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server);
        IPage page = opened.Page;

        await AskAsync(page, Question, 12);

        await Expect(page.Locator(".answer:not(.running)")).ToHaveCountAsync(2);
        Assert.Equal(Plain(null, 12), await page.Locator(".text").Nth(0).TextContentAsync());
        Assert.Equal(Plain(adapter.Path, 12), await page.Locator(".text").Nth(1).TextContentAsync());
        await Expect(page.Locator(".foot").First).ToContainTextAsync("12 tokens");
        Assert.Empty(opened.Faults);
        Assert.All(opened.Requests, url => Assert.StartsWith(server.Client.BaseAddress!.ToString(), url, StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_token_under_the_pointer_tells_its_probability_and_the_others()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, Adapters);
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server);
        IPage page = opened.Page;
        await AskAsync(page, Question, 8);

        await page.Locator(".tok").Nth(2).HoverAsync();

        ILocator peek = page.Locator("#peek");
        await Expect(peek).ToBeVisibleAsync();
        Assert.Equal(5, await peek.Locator("tr").CountAsync());
        await Expect(peek.Locator("tr").First).ToHaveClassAsync("chosen");
        double[] percents = [.. (await peek.Locator("td:last-child").AllTextContentsAsync()).Select(t => double.Parse(t.TrimStart('<', ' ').TrimEnd('%', ' '), CultureInfo.InvariantCulture))];
        Assert.Equal(percents.OrderDescending(), percents);
        Assert.InRange(percents.Sum(), 0.1, 101);
        await page.Locator("#prompt").HoverAsync();
        await Expect(peek).ToBeHiddenAsync();
    }

    [Fact]
    public async Task Everything_can_be_done_with_the_keyboard()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, Adapters);
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server);
        IPage page = opened.Page;
        await AskAsync(page, Question, 6);
        await Expect(page.Locator(".answer:not(.running)")).ToHaveCountAsync(2);

        await page.Locator(".text").First.FocusAsync();
        await page.Keyboard.PressAsync("ArrowRight");
        await page.Keyboard.PressAsync("ArrowRight");
        await Expect(page.Locator("#peek")).ToBeVisibleAsync();
        await Expect(page.Locator(".tok").Nth(1)).ToHaveClassAsync("tok current");
        await page.Keyboard.PressAsync("Escape");
        await Expect(page.Locator("#peek")).ToBeHiddenAsync();

        await page.Keyboard.PressAsync("a");
        await Expect(page.Locator(".head")).ToHaveCountAsync(3);
        await Expect(page.GetByRole(AriaRole.Heading, new() { Name = "twist" })).ToBeVisibleAsync();
        await page.Locator("#turns").FocusAsync();
        await page.Keyboard.PressAsync("t");
        Assert.Equal("light", await page.Locator("html").GetAttributeAsync("data-theme"));
        await page.Keyboard.PressAsync("s");
        await Expect(page.Locator("#settings")).ToBeHiddenAsync();
        await page.Keyboard.PressAsync("?");
        await Expect(page.Locator("#help")).ToBeVisibleAsync();
        await page.Keyboard.PressAsync("Escape");
        await page.Keyboard.PressAsync("/");
        await Expect(page.Locator("#prompt")).ToBeFocusedAsync();
        await page.Keyboard.PressAsync("ArrowUp");
        await Expect(page.Locator("#prompt")).ToHaveValueAsync(Question);
        await page.Locator("#turns").FocusAsync();
        await page.Keyboard.PressAsync("n");
        await Expect(page.Locator(".turn")).ToHaveCountAsync(0);
    }

    [Fact]
    public async Task Escape_stops_an_answer_and_frees_the_engine()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server);
        IPage page = opened.Page;
        await page.Locator("#set-stop").FillAsync("a stop string that never comes");
        await AskAsync(page, "Tell me everything.", 400);
        await Expect(page.Locator(".text").First).Not.ToBeEmptyAsync();

        await page.Keyboard.PressAsync("Escape");

        await Expect(page.Locator(".answer:not(.running)")).ToHaveCountAsync(1);
        for (int i = 0; i < 200 && server.Engine.Status.Running > 0; i++)
        {
            await Task.Delay(10, TestContext.Current.CancellationToken);
        }

        Assert.Equal(0, server.Engine.Status.Running);
        await Expect(page.Locator("#send")).ToHaveTextAsync("Send");
    }

    [Fact]
    public async Task Adapters_come_and_go_with_a_key()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, options: new ServerOptions { ModelName = "base", ApiKeys = ["secret"] });
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server);
        IPage page = opened.Page;
        await Expect(page.Locator("#api-key")).ToBeFocusedAsync();
        await Expect(page.Locator("#pulse-text")).ToHaveTextAsync("needs an API key");
        await page.Locator("#api-key").FillAsync("secret");
        await Expect(page.Locator("#pulse-text")).ToHaveTextAsync("ready");

        await page.Locator("#load-box summary").ClickAsync();
        await page.Locator("#load-name").FillAsync("twist");
        await page.Locator("#load-path").FillAsync("/no/such/folder");
        await page.Keyboard.PressAsync("Enter");
        await Expect(page.Locator("#adapter-fault")).ToContainTextAsync("/no/such/folder");

        await page.Locator("#load-path").FillAsync(adapter.Path);
        await page.Keyboard.PressAsync("Enter");
        await Expect(page.Locator("#adapters .name")).ToHaveTextAsync("twist");
        await Expect(page.Locator("#adapter-fault")).ToBeHiddenAsync();
        await Expect(page.Locator(".head select").Nth(1)).ToHaveValueAsync("twist");
        await page.Locator("[aria-label='Unload twist']").ClickAsync();
        await Expect(page.Locator("#adapters .name")).ToHaveCountAsync(0);
        Assert.Empty(server.Engine.Adapters);
        Assert.Empty(opened.Faults);
    }

    [Fact]
    public async Task A_running_trainings_curves_grow()
    {
        using var folder = new TemporaryFolder();
        string metrics = Path.Combine(folder.Path, "metrics.jsonl");
        await File.WriteAllLinesAsync(metrics, Steps(1, 40), TestContext.Current.CancellationToken);
        await using RunningServer server = await RunningServer.StartAsync(Model, options: new ServerOptions { ModelName = "base", RunFolder = folder.Path });
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server);
        IPage page = opened.Page;
        await Expect(page.Locator("#run-state")).ToContainTextAsync("Step 40");
        string? before = await page.Locator("#training path.line").First.GetAttributeAsync("d");

        await File.AppendAllLinesAsync(metrics, [.. Steps(41, 20), """{"step":60,"eval_loss":1.25}"""], TestContext.Current.CancellationToken);

        await Expect(page.Locator("#run-state")).ToContainTextAsync("Step 60");
        await Expect(page.Locator("#training path.dots")).ToHaveCountAsync(1);
        Assert.NotEqual(before, await page.Locator("#training path.line").First.GetAttributeAsync("d"));
    }

    [Fact]
    public async Task Settings_reach_the_request()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server);
        IPage page = opened.Page;
        await page.Locator("#set-top_p").FillAsync("0.9");
        await page.Locator("#set-seed").FillAsync("7");
        await page.Locator("#set-stop").FillAsync("END|\\n\\n");
        await page.Locator("#system").FillAsync("Be short.");

        IRequest request = await page.RunAndWaitForRequestAsync(() => AskAsync(page, "<img src=x onerror=alert(1)>", 4), r => r.Url.EndsWith("completions", StringComparison.Ordinal));

        Assert.Equal("/v1/chat/completions", new Uri(request.Url).AbsolutePath);
        string body = request.PostData!;
        Assert.Contains("\"top_p\":0.9", body);
        Assert.Contains("\"seed\":7", body);
        Assert.Contains("""
            "stop":["END","\n\n"]
            """, body);
        Assert.Contains("""{"role":"system","content":"Be short."}""", body);
        Assert.DoesNotContain("min_p", body);
        await Expect(page.Locator(".asked")).ToHaveTextAsync("<img src=x onerror=alert(1)>");
        Assert.Equal(0, await page.Locator(".turns img").CountAsync());

        await page.Context.GrantPermissionsAsync(["clipboard-read", "clipboard-write"]);
        await page.GetByText("Copy as C#").ClickAsync();
        Assert.Contains("new UserChatMessage(\"<img src=x onerror=alert(1)>\")", await page.EvaluateAsync<string>("navigator.clipboard.readText()"));

        await page.GetByText("Completion").ClickAsync();
        IRequest plain = await page.RunAndWaitForRequestAsync(() => AskAsync(page, "The river", 4), r => r.Url.EndsWith("completions", StringComparison.Ordinal));
        Assert.Equal("/v1/completions", new Uri(plain.Url).AbsolutePath);
        await Expect(page.Locator(".answer:not(.running) .tok")).Not.ToHaveCountAsync(0);
    }

    [Fact]
    public async Task Answers_are_held_to_a_form_and_every_field_can_be_sent()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server);
        IPage page = opened.Page;
        await page.Locator("#form-box summary").ClickAsync();
        await page.Locator("#form-kind").SelectOptionAsync("regex");
        await page.Locator("#form-text").FillAsync("[0-9]{5}");
        await AskAsync(page, Question, 40);
        await Expect(page.Locator(".answer:not(.running) .text")).ToHaveTextAsync(new Regex("^[0-9]{5}$"));

        await page.Locator("#form-kind").SelectOptionAsync("json_schema");
        await page.Locator("#form-text").FillAsync("""{"enum": ["yes", "no"]""");
        await AskAsync(page, "Unsaid", 40);
        Assert.Equal("Unsaid", await page.Locator("#prompt").InputValueAsync());
        Assert.False(await page.Locator("#form-text").EvaluateAsync<bool>("e => e.checkValidity()"));
        Assert.Equal(1, await page.Locator(".turn").CountAsync());

        await page.Locator("#form-text").FillAsync("""{"enum": ["yes", "no"]}""");
        await page.Locator("#more-box summary").ClickAsync();
        await page.Locator("#stop-ids").FillAsync("5, 6");
        await page.Locator("#logit-bias").FillAsync("""{"50": -100}""");
        await page.Locator("#other-fields").FillAsync("""{"parallel_tool_calls": false}""");
        await page.Locator("#skip-special").UncheckAsync();
        IRequest request = await page.RunAndWaitForRequestAsync(() => AskAsync(page, Question, 40), r => r.Url.EndsWith("completions", StringComparison.Ordinal));
        string body = request.PostData!;
        Assert.All(
            new[]
            {
                """
                "response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"enum":["yes","no"]}}}
                """, "\"stop_token_ids\":[5,6]", "\"logit_bias\":{\"50\":-100}", "\"parallel_tool_calls\":false", "\"skip_special_tokens\":false",
            },
            part => Assert.Contains(part, body));
        await Expect(page.Locator(".answer:not(.running) .text").Nth(1)).ToHaveTextAsync(new Regex("^\"(yes|no)\"$"));

        await page.Locator("#reset").ClickAsync();
        await Expect(page.Locator("#form-row")).ToBeHiddenAsync();
        Assert.Equal("", await page.Locator("#other-fields").InputValueAsync());
        Assert.True(await page.Locator("#skip-special").IsCheckedAsync());
        Assert.Empty(opened.Faults);
    }

    [Theory]
    [InlineData(1280, ColorScheme.Light)]
    [InlineData(1280, ColorScheme.Dark)]
    [InlineData(360, ColorScheme.Dark)]
    public async Task It_fits_the_window_can_be_read_and_every_control_has_a_name(int width, ColorScheme scheme)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, Adapters);
        await using ChromiumBrowser.OpenPage opened = await browser.OpenAsync(server, width, 700, scheme);
        IPage page = opened.Page;
        await AskAsync(page, Question, 6);
        await Expect(page.Locator(".answer:not(.running)")).ToHaveCountAsync(2);

        Assert.Equal(width, await page.EvaluateAsync<int>("document.documentElement.scrollWidth"));
        Assert.Empty(await page.EvaluateAsync<string[]>(
            """
            [...document.querySelectorAll("button, input, select, textarea")]
              .filter(e => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
              .map(e => e.outerHTML)
            """));
        foreach (string selector in (string[])[".text", ".foot", ".asked", "#send", ".head select"])
        {
            Assert.True(Contrast(await ColorsAsync(page, selector)) >= 4.5, $"{selector}: {Contrast(await ColorsAsync(page, selector)):F2}");
        }

        if (width < 900)
        {
            await page.Locator("#toggle-settings").ClickAsync();
            await Expect(page.Locator("#settings")).ToBeVisibleAsync();
            Assert.Equal(width, await page.EvaluateAsync<int>("document.getElementById('settings').offsetWidth"));
            await page.Locator("#toggle-engine").ClickAsync();
            await Expect(page.Locator("#settings")).ToBeHiddenAsync();
            await Expect(page.Locator("#engine")).ToBeVisibleAsync();
            await page.Keyboard.PressAsync("Escape");
            await Expect(page.Locator("#engine")).ToBeHiddenAsync();
        }
    }

    private static async Task AskAsync(IPage page, string prompt, int tokens)
    {
        await Expect(page.Locator(".head select")).Not.ToHaveCountAsync(0);
        await Expect(page.Locator(".answer.running")).ToHaveCountAsync(0);
        await page.EvaluateAsync("for (const [id, value] of [['set-temperature', 0], ['set-max_tokens', " + tokens + "]]) { const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event('input')); }");
        await page.Locator("#prompt").FillAsync(prompt);
        await page.Keyboard.PressAsync("Enter");
        await Expect(page.Locator(".answer")).Not.ToHaveCountAsync(0);
    }

    private static IEnumerable<string> Steps(int first, int count) => Enumerable.Range(first, count).Select(i => FormattableString.Invariant(
        $$"""{"step":{{i}},"loss":{{3.0 / i:F4}},"grad_norm":1.0,"learning_rate":0.0002,"tokens":512,"tokens_per_second":250.5,"epoch":0.5}"""));

    // The colour of the text, and the first ground below it that is not seen through.
    private static async Task<string[]> ColorsAsync(IPage page, string selector) => await page.EvaluateAsync<string[]>(
        """
        selector => {
          const element = document.querySelector(selector);
          let ground = element;
          while (/rgba\(.*, 0\)|transparent/.test(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
          return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
        }
        """,
        selector);

    // WCAG 2.2, contrast ratio.
    private static double Contrast(string[] colors)
    {
        double[] light = [.. colors.Select(Luminance).OrderDescending()];
        return (light[0] + 0.05) / (light[1] + 0.05);

        static double Luminance(string color)
        {
            double[] rgb = [.. Regex.Matches(color, @"\d+").Take(3).Select(m => int.Parse(m.Value, CultureInfo.InvariantCulture) / 255.0).Select(c => c <= 0.04045 ? c / 12.92 : Math.Pow((c + 0.055) / 1.055, 2.4))];
            return (0.2126 * rgb[0]) + (0.7152 * rgb[1]) + (0.0722 * rgb[2]);
        }
    }

    private static string Plain(string? adapterFolder, int tokens)
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Model, Device = "cpu" });
        if (adapterFolder is not null)
        {
            using Formats.Peft.AdapterFolder folder = Formats.Peft.AdapterFolder.Open(adapterFolder);
            loaded.Adapters.Load(folder, "twist");
            loaded.Adapters.Select("twist");
        }

        int[] prompt = loaded.Tokenizer.Encode($"<|im_start|>user\n{Question}<|im_end|>\n<|im_start|>assistant\n");
        return new TextGenerator(loaded.Model, loaded.Tokenizer)
            .Generate(prompt, new GenerationOptions { MaxTokens = tokens, EosTokenIds = loaded.Generation.EosTokenIds }, cancellation: TestContext.Current.CancellationToken).Text;
    }

    /// <summary>An adapter on the embedded model, written once.</summary>
    public sealed class AdapterFolder : IDisposable
    {
        private readonly TemporaryFolder _folder = new();

        public AdapterFolder() => RandomAdapter.Write(Model, Path, rank: 4, seed: 3);

        public string Path => System.IO.Path.Combine(_folder.Path, "twist");

        public void Dispose() => _folder.Dispose();
    }
}

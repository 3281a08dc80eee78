using System.Net;
using System.Net.Http.Headers;
using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;
using Polly;
using Polly.Retry;

namespace LoraSharp.Formats.Hub;

/// <summary>
/// Requests to the hub: retries what may pass, follows redirects itself (the token goes to the hub alone, never to the host
/// that a redirect names), and turns refusals into errors that say what to do.
/// </summary>
internal sealed class HubHttp : IDisposable
{
    private const int MostRedirects = 10;

    private readonly HubSettings _settings;
    private readonly HttpClient _client;
    private readonly ResiliencePipeline<HttpResponseMessage> _retries;

    public HubHttp(HubSettings settings, HttpMessageHandler? handler)
    {
        _settings = settings;
        // The proxy is that of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, which the default handler reads.
        _client = new HttpClient(handler ?? new SocketsHttpHandler { AllowAutoRedirect = false, ConnectTimeout = settings.Timeout, PooledConnectionLifetime = TimeSpan.FromMinutes(10) }, disposeHandler: handler is null)
        {
            Timeout = System.Threading.Timeout.InfiniteTimeSpan,
        };
        _client.DefaultRequestHeaders.UserAgent.ParseAdd("lorasharp/0.1");
        _retries = new ResiliencePipelineBuilder<HttpResponseMessage>().AddRetry(new RetryStrategyOptions<HttpResponseMessage>
        {
            MaxRetryAttempts = Math.Max(1, settings.Retries),
            BackoffType = DelayBackoffType.Exponential,
            UseJitter = true,
            Delay = settings.RetryDelay,
            MaxDelay = TimeSpan.FromSeconds(30),
            ShouldHandle = arguments => ValueTask.FromResult(arguments.Outcome.Exception is { } error ? IsTransient(error) : IsTransient(arguments.Outcome.Result!.StatusCode)),
            DelayGenerator = arguments => ValueTask.FromResult(RetryAfter(arguments.Outcome.Result)),
            OnRetry = arguments =>
            {
                arguments.Outcome.Result?.Dispose();
                return default;
            },
        }).Build();
    }

    public static bool IsTransient(Exception error) => error is HttpRequestException or IOException or TimeoutException;

    public void Dispose() => _client.Dispose();

    /// <summary>An address below the hub's.</summary>
    public Uri Address(string path) => new($"{_settings.Endpoint.AbsoluteUri.TrimEnd('/')}/{path}");

    /// <summary>A path in a repository as part of an address.</summary>
    public static string Escape(string path) => string.Join('/', path.Split('/').Select(Uri.EscapeDataString));

    /// <summary>Sends until there is an answer that stands; redirects are followed where <paramref name="follow"/> says so.</summary>
    /// <exception cref="HubException">The hub cannot be reached.</exception>
    public async Task<HttpResponseMessage> SendAsync(Func<HttpRequestMessage> create, Func<Uri, Uri, bool> follow, CancellationToken cancellation)
    {
        try
        {
            return await _retries.ExecuteAsync(async token => await SendOnceAsync(create, follow, token), cancellation);
        }
        catch (Exception error) when (IsTransient(error))
        {
            throw Unreachable(error);
        }
    }

    /// <summary>One try, for callers that have a way of their own to go on.</summary>
    public async Task<HttpResponseMessage> SendOnceAsync(Func<HttpRequestMessage> create, Func<Uri, Uri, bool> follow, CancellationToken cancellation)
    {
        Uri? next = null;
        for (int i = 0; i <= MostRedirects; i++)
        {
            using HttpRequestMessage request = create();
            request.RequestUri = next ?? request.RequestUri;
            if (_settings.Token is not null && IsHub(request.RequestUri!) && request.Headers.Authorization is null)
            {
                request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", _settings.Token);
            }
            else if (!IsHub(request.RequestUri!) && next is not null)
            {
                request.Headers.Authorization = null;
            }

            HttpResponseMessage response = await SendTimedAsync(request, cancellation);
            if ((int)response.StatusCode is not (301 or 302 or 303 or 307 or 308) || response.Headers.Location is null)
            {
                return response;
            }

            Uri target = new(request.RequestUri!, response.Headers.Location);
            if (!follow(request.RequestUri!, target))
            {
                return response;
            }

            if (request.RequestUri!.Scheme == "https" && target.Scheme != "https")
            {
                throw new HubException(HubFault.Malformed, $"{request.RequestUri} redirects to {target.Scheme}://{target.Host}, which is not encrypted. Nothing was sent there.");
            }

            next = target;
            response.Dispose();
        }

        throw new HubException(HubFault.Malformed, $"{_settings.Endpoint} redirects more than {MostRedirects} times.");
    }

    public HubException Unreachable(Exception error) => new(
        HubFault.Unreachable,
        $"{_settings.Endpoint} cannot be reached: {error.Message.TrimEnd('.')}. Check the network and, where there is one, the proxy (HTTPS_PROXY) or mirror (HF_ENDPOINT). What was downloaded is kept; the same command goes on from there.",
        error);

    /// <summary>The JSON of an answer.</summary>
    public static async Task<JsonObject> ReadJsonAsync(HttpResponseMessage response, CancellationToken cancellation)
    {
        string text = await response.Content.ReadAsStringAsync(cancellation);
        try
        {
            return StrictJson.Parse(text) as JsonObject ?? throw Malformed(null);
        }
        catch (System.Text.Json.JsonException error)
        {
            throw Malformed(error);
        }

        HubException Malformed(Exception? error) => new(HubFault.Malformed, $"{response.RequestMessage?.RequestUri}: expected a JSON object, got '{(text.Length > 80 ? text[..80] + "..." : text)}'. Is HF_ENDPOINT a hub?", error);
    }

    /// <summary>The error for an answer that is a refusal.</summary>
    public async Task<HubException> RefusalAsync(HttpResponseMessage response, HubName name, CancellationToken cancellation)
    {
        string code = Header(response, "X-Error-Code") ?? string.Empty;
        string said = Header(response, "X-Error-Message") ?? await ErrorTextAsync(response, cancellation);
        string page = new Uri(_settings.Endpoint, name.Repository).AbsoluteUri;
        bool hasToken = _settings.Token is not null;
        const string GetToken = "set HF_TOKEN to an access token from the hub's settings page, or save it with 'hf auth login'";
        return (code, response.StatusCode) switch
        {
            ("GatedRepo", _) => new(HubFault.Gated, $"{name} is gated: its owner wants conditions accepted first. Open {page} in a browser, accept them, {(hasToken ? "and use a token of that account (the token sent has no access)" : $"then {GetToken}")}."),
            ("RevisionNotFound", _) => new(HubFault.RevisionNotFound, $"{name.Repository} has no revision '{name.Revision}'. See its branches and tags at {page}/tree/main."),
            ("EntryNotFound", _) => new(HubFault.Malformed, $"{name}: a file that the hub lists is not there: {said}"),
            ("RepoNotFound", _) or (_, HttpStatusCode.NotFound) or ("", HttpStatusCode.Unauthorized) when !hasToken || response.StatusCode == HttpStatusCode.NotFound || code == "RepoNotFound" =>
                new(HubFault.RepositoryNotFound, $"There is no {name.Repository} at {_settings.Endpoint.Host}{(hasToken ? ", or the token has no access to it" : $". Check the name; if it is private, {GetToken}")}."),
            (_, HttpStatusCode.Unauthorized) => new(HubFault.Unauthorized, $"{_settings.Endpoint.Host} does not accept the token ({(hasToken ? "it is wrong or has expired" : "there is none")}): {GetToken}."),
            (_, HttpStatusCode.Forbidden) => new(HubFault.Unauthorized, $"{_settings.Endpoint.Host} refuses access to {name.Repository}: {said}. {(hasToken ? "The token may lack the permission for it." : $"To identify yourself, {GetToken}.")}"),
            _ => new(HubFault.Unreachable, $"{response.RequestMessage?.RequestUri}: the server answers {(int)response.StatusCode} {response.ReasonPhrase}{(said.Length > 0 ? $": {said}" : string.Empty)}. Try again later."),
        };
    }

    public static string? Header(HttpResponseMessage response, string name) =>
        response.Headers.TryGetValues(name, out IEnumerable<string>? values) || response.Content.Headers.TryGetValues(name, out values) ? values.First() : null;

    public bool IsHub(Uri address) => address.Host == _settings.Endpoint.Host && address.Port == _settings.Endpoint.Port && address.Scheme == _settings.Endpoint.Scheme;

    private async Task<HttpResponseMessage> SendTimedAsync(HttpRequestMessage request, CancellationToken cancellation)
    {
        using var timed = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        timed.CancelAfter(request.Content is null ? _settings.Timeout : System.Threading.Timeout.InfiniteTimeSpan);
        try
        {
            return await _client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, timed.Token);
        }
        catch (OperationCanceledException error) when (!cancellation.IsCancellationRequested)
        {
            throw new TimeoutException($"no answer within {_settings.Timeout.TotalSeconds:0} s.", error);
        }
    }

    private static bool IsTransient(HttpStatusCode status) => status is HttpStatusCode.RequestTimeout or HttpStatusCode.TooManyRequests or >= HttpStatusCode.InternalServerError and not HttpStatusCode.NotImplemented;

    private static TimeSpan? RetryAfter(HttpResponseMessage? response) => response?.Headers.RetryAfter?.Delta is { } delay && delay <= TimeSpan.FromMinutes(5) ? delay : null;

    private static async Task<string> ErrorTextAsync(HttpResponseMessage response, CancellationToken cancellation)
    {
        string text = await response.Content.ReadAsStringAsync(cancellation);
        try
        {
            return StrictJson.Parse(text)?["error"]?.ToString() ?? string.Empty;
        }
        catch (Exception error) when (error is System.Text.Json.JsonException or InvalidOperationException)
        {
            return text.Length > 200 ? text[..200] : text;
        }
    }
}

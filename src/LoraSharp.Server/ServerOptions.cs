using LoraSharp.Formats;

namespace LoraSharp.Server;

/// <summary>How the server answers.</summary>
public sealed record ServerOptions
{
    /// <summary>What requests call the base model.</summary>
    public required string ModelName { get; init; }

    /// <summary>Keys of which a request must carry one as <c>Authorization: Bearer KEY</c>; they may use everything. Empty: no key is asked for.</summary>
    public IReadOnlyList<string> ApiKeys { get; init; } = [];

    /// <summary>The key for loading and unloading adapters, metrics, draining; null: without any key anyone may, with only <see cref="ApiKeys"/> their holders.</summary>
    public string? AdminKey { get; init; }

    /// <summary>A file of keys with the adapters each may use and its limits (see <see cref="Access.KeysFile"/>); null for none.</summary>
    public string? KeysFile { get; init; }

    /// <summary>Largest request body in bytes.</summary>
    public long MaxRequestBytes { get; init; } = 8 << 20;

    /// <summary>
    /// Longest time a request may take: its body, the queue, the prompt and the whole answer, streams too. Then 504; where a
    /// stream has begun, an event with the error.
    /// </summary>
    public TimeSpan RequestTimeout { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>
    /// After how long a stream that has nothing to say (it waits in the queue, or a long prompt is computed) sends a comment, so
    /// that no proxy takes it for dead. Clients skip comments. Zero for none.
    /// </summary>
    public TimeSpan StreamKeepAlive { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>Longest time a client may take to send its headers, 2 s or more; a body must then come at 240 bytes a second.</summary>
    public TimeSpan HeadersTimeout { get; init; } = TimeSpan.FromSeconds(15);

    /// <summary>How long requests under way may go on when the server is told to stop.</summary>
    public TimeSpan DrainTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Most connections at the same time.</summary>
    public int MaxConnections { get; init; } = 2048;

    /// <summary>Length of a chat's answer when the request says nothing, at most what the context leaves.</summary>
    public int DefaultMaxTokens { get; init; } = 2048;

    /// <summary>Whether adapters may be loaded and unloaded over HTTP.</summary>
    public bool AllowAdapterChanges { get; init; } = true;

    /// <summary>Folders below which adapters may be loaded over HTTP; relative paths are taken from there. Empty: anywhere.</summary>
    public IReadOnlyList<string> AdapterFolders { get; init; } = [];

    /// <summary>
    /// Folder below which training over HTTP reads its data and writes its runs, each under its adapter's name; null: no training
    /// is started over HTTP.
    /// </summary>
    public string? TrainingFolder { get; init; }

    /// <summary>Whether the playground page is served at <c>/</c>.</summary>
    public bool Playground { get; init; } = true;

    /// <summary>Folder of a training run whose <c>metrics.jsonl</c> the playground draws; null for none.</summary>
    public string? RunFolder { get; init; }

    /// <summary>Web origins whose pages may call the server (CORS), <c>*</c> for all; empty: none.</summary>
    public IReadOnlyList<string> AllowedOrigins { get; init; } = [];

    /// <summary>Fails with every value that is out of range.</summary>
    /// <exception cref="LoraSharpException">One or more are.</exception>
    public ServerOptions Validate()
    {
        List<string> faults = [];
        Check(!string.IsNullOrWhiteSpace(ModelName), "the model's name is empty");
        Check(ApiKeys.All(IsKey), "an API key is empty or has blanks or characters beyond ASCII");
        Check(AdminKey is null || IsKey(AdminKey), "the admin key is empty or has blanks or characters beyond ASCII");
        Check(AdminKey is null || !ApiKeys.Contains(AdminKey), "the admin key is an API key too; expected one of its own");
        Check(ApiKeys.Distinct(StringComparer.Ordinal).Count() == ApiKeys.Count, "an API key is given twice");
        Check(MaxRequestBytes >= 1024, $"largest request {MaxRequestBytes} bytes: expected 1024 or more");
        Check(MaxConnections >= 1, $"connections {MaxConnections}: expected 1 or more");
        Check(DefaultMaxTokens >= 1, $"default length {DefaultMaxTokens}: expected 1 or more");
        foreach ((string name, TimeSpan time) in ((string, TimeSpan)[])[("request", RequestTimeout), ("headers", HeadersTimeout)])
        {
            Check(time > TimeSpan.Zero && time < TimeSpan.FromDays(20), $"{name} timeout {time.TotalSeconds} s: expected more than 0, less than 20 days");
        }

        Check(HeadersTimeout >= TimeSpan.FromSeconds(2), $"headers timeout {HeadersTimeout.TotalSeconds} s: expected 2 or more");
        Check(StreamKeepAlive >= TimeSpan.Zero && StreamKeepAlive < TimeSpan.FromDays(20), $"stream keep-alive {StreamKeepAlive.TotalSeconds} s: expected 0 (none) or more");
        Check(DrainTimeout >= TimeSpan.Zero && DrainTimeout < TimeSpan.FromDays(20), $"drain timeout {DrainTimeout.TotalSeconds} s: expected 0 or more, less than 20 days");
        foreach (string folder in AdapterFolders)
        {
            Check(Directory.Exists(folder), $"adapter folder '{folder}': there is no such folder");
        }

        Check(TrainingFolder is null || Directory.Exists(TrainingFolder), $"training folder '{TrainingFolder}': there is no such folder");
        foreach (string origin in AllowedOrigins)
        {
            Check(origin == "*" || (Uri.TryCreate(origin, UriKind.Absolute, out Uri? uri) && uri.GetLeftPart(UriPartial.Authority) == origin), $"origin '{origin}': expected * or scheme://host[:port]");
        }

        return faults.Count == 0 ? this : throw new LoraSharpException($"Server options out of range:\n  {string.Join("\n  ", faults)}");

        void Check(bool fine, string fault)
        {
            if (!fine)
            {
                faults.Add(fault);
            }
        }
    }

    private static bool IsKey(string key) => key.Length > 0 && key.All(c => c is > ' ' and <= '~');
}

using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Hub;

/// <summary>Where the hub is, where its cache lies, and who we are there; from the environment variables of huggingface_hub.</summary>
public sealed partial record HubSettings
{
    /// <summary>The hub or a mirror of it (<c>HF_ENDPOINT</c>).</summary>
    public Uri Endpoint { get; init; } = new("https://huggingface.co");

    /// <summary>The cache (<c>HF_HUB_CACHE</c>, or <c>hub</c> below <c>HF_HOME</c>; without either, transformers 4's <c>TRANSFORMERS_CACHE</c>).</summary>
    public required string CacheFolder { get; init; }

    /// <summary>The access token (<c>HF_TOKEN</c>, or the file <c>HF_TOKEN_PATH</c>); null: none.</summary>
    public string? Token { get; init; }

    /// <summary>Whether the network is left alone (<c>HF_HUB_OFFLINE</c>).</summary>
    public bool Offline { get; init; }

    /// <summary>How long a connection may be silent before it is given up and tried again.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>How often a request is tried again before it is given up; a download that makes progress starts counting anew.</summary>
    public int Retries { get; init; } = 5;

    /// <summary>Pause before the first retry; it doubles from one to the next.</summary>
    public TimeSpan RetryDelay { get; init; } = TimeSpan.FromSeconds(0.5);

    /// <summary>Reads the environment as huggingface_hub does.</summary>
    /// <param name="variable">Gives the value of a variable; null: that of this process.</param>
    /// <exception cref="HubException"><c>HF_ENDPOINT</c> is no address.</exception>
    public static HubSettings FromEnvironment(Func<string, string?>? variable = null)
    {
        variable ??= Environment.GetEnvironmentVariable;
        string home = Value("HF_HOME") is { } named ? Expand(named) : Path.Combine(Value("XDG_CACHE_HOME") is { } cache ? Expand(cache) : Path.Combine(UserFolder(), ".cache"), "huggingface");
        string? old = Value("HF_HOME") is null ? Value("TRANSFORMERS_CACHE") : null;
        string hub = Expand(Value("HF_HUB_CACHE") ?? Value("HUGGINGFACE_HUB_CACHE") ?? old ?? Path.Combine(home, "hub"));
        string endpoint = (Value("HF_ENDPOINT") ?? "https://huggingface.co").TrimEnd('/');
        if (!Uri.TryCreate(endpoint, UriKind.Absolute, out Uri? address) || address.Scheme is not ("http" or "https"))
        {
            throw new HubException(HubFault.BadRequest, $"HF_ENDPOINT is '{endpoint}'; expected an address such as https://huggingface.co.");
        }

        return new HubSettings
        {
            Endpoint = address,
            CacheFolder = Path.GetFullPath(hub),
            Token = IsTrue("HF_HUB_DISABLE_IMPLICIT_TOKEN") ? null : Clean(Value("HF_TOKEN") ?? Value("HUGGING_FACE_HUB_TOKEN")) ?? ReadToken(Expand(Value("HF_TOKEN_PATH") ?? Path.Combine(home, "token"))),
            Offline = IsTrue("HF_HUB_OFFLINE") || IsTrue("TRANSFORMERS_OFFLINE"),
            Timeout = int.TryParse(Value("HF_HUB_DOWNLOAD_TIMEOUT"), out int seconds) && seconds > 0 ? TimeSpan.FromSeconds(seconds) : TimeSpan.FromSeconds(30),
        };

        string? Value(string name) => variable(name) is { Length: > 0 } value ? value : null;

        bool IsTrue(string name) => Value(name)?.ToUpperInvariant() is "1" or "ON" or "YES" or "TRUE";

        // As Python's expanduser and expandvars: a variable that is not set stays as it is written.
        string Expand(string path) => VariablePattern().Replace(
            path == "~" || path.StartsWith("~/", StringComparison.Ordinal) ? Path.Join(UserFolder(), path[1..]) : path,
            found => Value(found.Groups["name"].Value) ?? found.Value);

        string UserFolder() => Value("HOME") ?? Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
    }

    [GeneratedRegex(@"\$(?:(?<name>[A-Za-z0-9_]+)|\{(?<name>[^}]*)\})")]
    private static partial Regex VariablePattern();

    private static string? ReadToken(string path) => File.Exists(path) ? Clean(File.ReadAllText(path)) : null;

    private static string? Clean(string? token) => token?.ReplaceLineEndings(string.Empty).Trim() is { Length: > 0 } clean ? clean : null;

    // A record prints its properties, and a token must not end up in a log.
    private bool PrintMembers(System.Text.StringBuilder builder)
    {
        builder.Append($"{nameof(Endpoint)} = {Endpoint}, {nameof(CacheFolder)} = {CacheFolder}, {nameof(Token)} = {(Token is null ? "none" : "***")}, {nameof(Offline)} = {Offline}");
        return true;
    }
}

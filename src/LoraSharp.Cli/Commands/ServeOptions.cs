using System.CommandLine;
using System.Net;
using LoraSharp.Formats;
using LoraSharp.Server;
using LoraSharp.Serving;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Cli.Commands;

/// <summary>The flags of <c>lora serve</c> beside those that all commands with a model have.</summary>
internal sealed class ServeOptions
{
    private static readonly ServerOptions Defaults = new() { ModelName = "-" };
    private static readonly EngineLimits EngineDefaults = new();

    private readonly Option<int> _port = new("--port") { Description = "Port; 0 for any free one.", HelpName = "N", DefaultValueFactory = _ => 8080 };
    private readonly Option<string> _host = new("--host") { Description = "Address to listen on; 0.0.0.0 for all.", HelpName = "ADDRESS", DefaultValueFactory = _ => "127.0.0.1" };
    private readonly Option<string?> _name = new("--served-model-name") { Description = "What requests call the base; default: as given to --model.", HelpName = "NAME" };
    private readonly Option<string[]> _apiKeys = new("--api-key") { Description = "Ask for this key; may be given several times.", HelpName = "KEY", DefaultValueFactory = _ => [] };
    private readonly Option<string?> _adminKey = new("--admin-key") { Description = "Key for loading and unloading adapters, /metrics and /admin.", HelpName = "KEY" };
    private readonly Option<string?> _keys = new("--keys") { Description = "File of keys (YAML or JSON) with the adapters each may use and its limits a minute.", HelpName = "FILE" };
    private readonly Option<int> _batch = new("--max-batch") { Description = "Sequences computed side by side.", HelpName = "N", DefaultValueFactory = _ => EngineDefaults.MaxBatch };
    private readonly Option<int> _queue = new("--max-queue") { Description = "Requests that may wait; one more is answered 503.", HelpName = "N", DefaultValueFactory = _ => EngineDefaults.MaxWaiting };
    private readonly Option<string?> _memory = new("--kv-memory") { Description = "Memory of the key-value cache, e.g. 512MB; default: what the batch needs, at most 1 GB.", HelpName = "SIZE" };
    private readonly Option<long> _cache = new("--kv-tokens") { Description = "Tokens that the key-value cache holds at most; 0 for as many as its memory.", HelpName = "N", DefaultValueFactory = _ => EngineDefaults.CacheTokens };
    private readonly Option<int> _step = new("--step-tokens") { Description = "Tokens computed in one step: longer prompts are cut into pieces, between which others get their next token.", HelpName = "N", DefaultValueFactory = _ => EngineDefaults.StepTokens };
    private readonly Option<bool> _unshared = new("--no-prefix-cache") { Description = "Compute every prompt from its beginning, also where another began alike." };
    private readonly Option<bool> _fused = new("--no-fused-decode") { Description = "On a GPU, decode by libtorch's operators also where there are kernels and CUDA graphs of our own (Llama-shaped bfloat16 bases)." };
    private readonly Option<int> _length = new("--max-length") { Description = "Longest sequence; 0 for the model's own limit.", HelpName = "N" };
    private readonly Option<int> _answer = new("--default-max-tokens") { Description = "Length of a chat's answer when the request says nothing.", HelpName = "N", DefaultValueFactory = _ => Defaults.DefaultMaxTokens };
    private readonly Option<int> _loaded = new("--max-loaded-adapters") { Description = "Adapters kept in memory; the least recently used one makes room.", HelpName = "N", DefaultValueFactory = _ => EngineDefaults.MaxLoadedAdapters };
    private readonly Option<string?> _register = new("--register") { Description = "Register every adapter folder right below this one under its name; each is read when it is first asked for.", HelpName = "DIR" };
    private readonly Option<string[]> _pinned = new("--pin") { Description = "Adapters that stay in memory whatever else is asked for.", AllowMultipleArgumentsPerToken = true, HelpName = "NAME", DefaultValueFactory = _ => [] };
    private readonly Option<string[]> _folders = new("--adapter-folder") { Description = "Let adapters be loaded over HTTP from below this folder only; may be given several times.", HelpName = "DIR", DefaultValueFactory = _ => [] };
    private readonly Option<bool> _closed = new("--no-adapter-changes") { Description = "Let no adapter be loaded or unloaded over HTTP." };
    private readonly Option<string[]> _origins = new("--allow-origin") { Description = "Let pages of this web origin call the server (CORS); * for all; may be given several times.", HelpName = "ORIGIN", DefaultValueFactory = _ => [] };
    private readonly Option<double> _request = new("--request-timeout") { Description = "Longest time a request may take with queue, prompt and whole answer, in seconds.", HelpName = "S", DefaultValueFactory = _ => Defaults.RequestTimeout.TotalSeconds };
    private readonly Option<double> _keepAlive = new("--stream-keep-alive") { Description = "A stream that has nothing to say for so many seconds sends a comment, so that no proxy cuts it; 0 for none.", HelpName = "S", DefaultValueFactory = _ => Defaults.StreamKeepAlive.TotalSeconds };
    private readonly Option<double> _drain = new("--drain-timeout") { Description = "How long requests under way may go on after SIGTERM or Ctrl+C, in seconds.", HelpName = "S", DefaultValueFactory = _ => Defaults.DrainTimeout.TotalSeconds };
    private readonly Option<string> _body = new("--max-request-size") { Description = "Largest request body.", HelpName = "SIZE", DefaultValueFactory = _ => "8MB" };
    private readonly Option<LogLevel> _level = new("--log-level") { Description = "trace, debug, information (a line a request), warning, error or none.", HelpName = "LEVEL", DefaultValueFactory = _ => LogLevel.Warning };
    private readonly Option<string> _format = new("--log-format") { Description = "text, or json for one object a line; logs go to standard error.", HelpName = "FORMAT", DefaultValueFactory = _ => "text" };
    private readonly Option<string?> _run = new("--run") { Description = "Draw the curves of this training run's folder on the page; it may be still running.", HelpName = "DIR" };
    private readonly Option<string?> _train = new("--train") { Description = "Fine-tune by this recipe on the served base, between the steps of serving; the adapter then answers under its output folder's name.", HelpName = "RECIPE" };
    private readonly Option<double> _share = new("--train-share") { Description = "Share of the time for --train while requests run, above 0, at most 1; all of it while none does.", HelpName = "SHARE", DefaultValueFactory = _ => 0.5 };
    private readonly Option<string?> _trainFolder = new("--training-folder") { Description = "Let admins start fine-tunes over HTTP (POST /admin/training) that read data and write runs below this folder.", HelpName = "DIR" };
    private readonly Option<string?> _merge = new("--merge") { Description = "Fold this adapter into a copy of the weights, for a server of mostly one: its requests run as fast as the base's.", HelpName = "NAME" };
    private readonly Option<bool> _plain = new("--no-playground") { Description = "Serve no page at /." };

    public ServeOptions() => _format.AcceptOnlyFromAmong("text", "json");

    public void AddTo(Command command)
    {
        foreach (Option option in (Option[])[_port, _host, _name, _apiKeys, _adminKey, _keys, _batch, _queue, _memory, _cache, _step, _unshared, _fused, _length, _answer, _loaded, _register, _pinned, _folders, _closed, _origins, _request, _keepAlive, _drain, _body, _level, _format, _run, _train, _share, _trainFolder, _merge, _plain])
        {
            command.Add(option);
        }
    }

    public int Port(ParseResult parsed) => parsed.GetValue(_port) is var port and >= 0 and <= 65535 ? port : throw new LoraSharpException($"--port {parsed.GetValue(_port)}: expected 0 (any free one) to 65535.");

    public IPAddress Address(ParseResult parsed)
    {
        string host = parsed.GetValue(_host)!;
        return IPAddress.TryParse(host, out IPAddress? given) ? given
            : host == "localhost" ? IPAddress.Loopback
            : throw new LoraSharpException($"--host '{host}': expected an IP address such as 127.0.0.1 or 0.0.0.0.");
    }

    /// <summary>Adapters that are known by name and not read yet.</summary>
    public IReadOnlyList<(string Name, string Path)> Registered(ParseResult parsed) => parsed.GetValue(_register) is not { } folder ? []
        : !Directory.Exists(folder) ? throw new LoraSharpException($"--register '{folder}': there is no such folder.")
        : [.. Directory.GetDirectories(folder).Where(d => File.Exists(Path.Combine(d, "adapter_config.json"))).Order(StringComparer.Ordinal).Select(d => (Path.GetFileName(d), d))];

    /// <summary>Adapters that stay in memory.</summary>
    public IReadOnlyList<string> Pinned(ParseResult parsed) => parsed.GetValue(_pinned)!;

    public EngineLimits Limits(ParseResult parsed) => new()
    {
        MaxBatch = Positive(parsed, _batch),
        MaxWaiting = Positive(parsed, _queue),
        KeyValueMemory = parsed.GetValue(_memory) is { } memory ? ByteSize.Parse(memory, _memory.Name) : 0,
        CacheTokens = parsed.GetValue(_cache) is var tokens and >= 0 ? tokens : throw new LoraSharpException($"--kv-tokens {parsed.GetValue(_cache)}: expected 0 (no bound but the memory's) or more."),
        StepTokens = Math.Max(Positive(parsed, _step), Positive(parsed, _batch)),
        PrefixCache = !parsed.GetValue(_unshared),
        FusedDecode = !parsed.GetValue(_fused),
        MaxLength = parsed.GetValue(_length) is var length and >= 0 ? length : throw new LoraSharpException($"--max-length {parsed.GetValue(_length)}: expected 0 (the model's own limit) or more."),
        MaxLoadedAdapters = Positive(parsed, _loaded),
    };

    /// <summary>The recipe to train beside serving; null for none.</summary>
    public string? Train(ParseResult parsed) => parsed.GetValue(_train);

    /// <summary>The adapter to fold into the weights; null for none.</summary>
    public string? Merge(ParseResult parsed) => parsed.GetValue(_merge);

    public double TrainShare(ParseResult parsed) => parsed.GetValue(_share) is var share and > 0 and <= 1 ? share : throw new LoraSharpException($"--train-share {parsed.GetValue(_share)}: expected above 0, at most 1.");

    public ServerOptions Server(ParseResult parsed, string model) => new()
    {
        ModelName = parsed.GetValue(_name) ?? model,
        ApiKeys = parsed.GetValue(_apiKeys)!,
        AdminKey = parsed.GetValue(_adminKey),
        KeysFile = parsed.GetValue(_keys),
        DefaultMaxTokens = Positive(parsed, _answer),
        AllowAdapterChanges = !parsed.GetValue(_closed),
        AdapterFolders = parsed.GetValue(_folders)!,
        AllowedOrigins = parsed.GetValue(_origins)!,
        RequestTimeout = Seconds(parsed, _request),
        StreamKeepAlive = Seconds(parsed, _keepAlive),
        DrainTimeout = Seconds(parsed, _drain),
        MaxRequestBytes = ByteSize.Parse(parsed.GetValue(_body)!, _body.Name),
        TrainingFolder = parsed.GetValue(_trainFolder),
        RunFolder = parsed.GetValue(_run),
        Playground = !parsed.GetValue(_plain),
    };

    public void Log(ParseResult parsed, ILoggingBuilder logging)
    {
        LogLevel level = parsed.GetValue(_level);
        logging.ClearProviders();
        logging.SetMinimumLevel(level);

        // The web server's own chatter is of use to who looks for a fault in it, not as a line beside every request's.
        logging.AddFilter("Microsoft", level < LogLevel.Information ? level : (LogLevel)Math.Max((int)level, (int)LogLevel.Warning));
        logging.AddConsole(console => console.LogToStandardErrorThreshold = LogLevel.Trace);
        if (parsed.GetValue(_format) == "json")
        {
            logging.AddJsonConsole(json => json.TimestampFormat = "O");
        }
        else
        {
            logging.AddSimpleConsole(text =>
            {
                text.SingleLine = true;
                text.TimestampFormat = "HH:mm:ss.fff ";
            });
        }
    }

    private static int Positive(ParseResult parsed, Option<int> option) =>
        parsed.GetValue(option) is var value and >= 1 ? value : throw new LoraSharpException($"{option.Name} {parsed.GetValue(option)}: expected 1 or more.");

    private static TimeSpan Seconds(ParseResult parsed, Option<double> option) => parsed.GetValue(option) is var seconds and >= 0 and < 1e6
        ? TimeSpan.FromSeconds(seconds)
        : throw new LoraSharpException($"{option.Name} {parsed.GetValue(option)}: expected 0 to 1000000 seconds.");
}

namespace LoraSharp.Server;

/// <summary>How the server answers.</summary>
public sealed record ServerOptions
{
    /// <summary>What requests call the base model.</summary>
    public required string ModelName { get; init; }

    /// <summary>Keys of which a request must carry one as <c>Authorization: Bearer KEY</c>; empty: no key is asked for.</summary>
    public IReadOnlyList<string> ApiKeys { get; init; } = [];

    /// <summary>Largest request body in bytes.</summary>
    public long MaxRequestBytes { get; init; } = 8 << 20;

    /// <summary>Whether adapters may be loaded and unloaded over HTTP.</summary>
    public bool AllowAdapterChanges { get; init; } = true;

    /// <summary>Folders below which adapters may be loaded over HTTP; empty: anywhere.</summary>
    public IReadOnlyList<string> AdapterFolders { get; init; } = [];

    /// <summary>Whether the playground page is served at <c>/</c>.</summary>
    public bool Playground { get; init; } = true;

    /// <summary>Folder of a training run whose <c>metrics.jsonl</c> the playground draws; null for none.</summary>
    public string? RunFolder { get; init; }
}

using LoraSharp.Formats;
using LoraSharp.Inference;

namespace LoraSharp.Serving;

/// <summary>One sequence to be generated.</summary>
public sealed record InferenceRequest
{
    /// <summary>Token ids, at least one.</summary>
    public required IReadOnlyList<int> Prompt { get; init; }

    /// <summary>Name of a registered adapter; null for the base.</summary>
    public string? Adapter { get; init; }

    /// <summary>Length, ends, sampling.</summary>
    public required GenerationOptions Options { get; init; }

    /// <summary>How many of the likeliest tokens are reported beside the chosen one; null for no log-probabilities.</summary>
    public int? LogProbabilities { get; init; }

    /// <summary>Whether the prompt's own log-probabilities are reported first (needs <see cref="LogProbabilities"/>).</summary>
    public bool PromptLogProbabilities { get; init; }
}

/// <summary>A token and how likely it was, natural logarithm of the model's own distribution (before temperature and penalties).</summary>
/// <param name="Token">Its id.</param>
/// <param name="LogProbability">ln p; null for a prompt's first token.</param>
/// <param name="Top">The likeliest tokens, best first.</param>
public sealed record TokenScore(int Token, double? LogProbability, IReadOnlyList<(int Token, double LogProbability)> Top);

/// <summary>Something that came of a request.</summary>
/// <param name="Token">The token; null in the last update of a request without a further one.</param>
/// <param name="Text">Text that became certain; may be empty.</param>
/// <param name="Score">Its log-probability, when asked for.</param>
/// <param name="Finish">Why the sequence ended; null while it goes on.</param>
/// <param name="PromptScores">In the first update, when asked for.</param>
public sealed record TokenUpdate(int? Token, string Text, TokenScore? Score, FinishReason? Finish, IReadOnlyList<TokenScore>? PromptScores);

/// <summary>Where an adapter is.</summary>
public enum AdapterPlace
{
    /// <summary>Registered; nothing of it is in memory.</summary>
    Disk,

    /// <summary>Its file was read.</summary>
    Host,

    /// <summary>Its tensors are made: it runs at once.</summary>
    Device,
}

/// <summary>A registered adapter.</summary>
/// <param name="Name">What requests call it.</param>
/// <param name="Path">Where it lies.</param>
/// <param name="IsLoaded">Whether its tensors are in memory.</param>
/// <param name="Rank">Its rank; 0 before it was first loaded.</param>
public sealed record AdapterInfo(string Name, string Path, bool IsLoaded, int Rank)
{
    /// <summary>The fastest memory it is in.</summary>
    public AdapterPlace Place { get; init; }

    /// <summary>Whether it stays there whatever else is asked for.</summary>
    public bool IsPinned { get; init; }

    /// <summary>Whether it is folded into a copy of the weights.</summary>
    public bool IsMerged { get; init; }

    /// <summary>Bytes it takes in memory, factors only; 0 on disk.</summary>
    public long Bytes { get; init; }
}

/// <summary>Where the engine stands.</summary>
/// <param name="Running">Sequences being computed.</param>
/// <param name="Waiting">Requests that wait.</param>
/// <param name="CachedTokens">Tokens that the running sequences hold in the cache.</param>
/// <param name="GeneratedTokens">Since the start.</param>
/// <param name="PromptTokens">Computed since the start.</param>
/// <param name="Steps">Forward passes since the start.</param>
public sealed record EngineStatus(int Running, int Waiting, long CachedTokens, long GeneratedTokens, long PromptTokens, long Steps)
{
    /// <summary>Prompt tokens found in the cache and not computed, since the start.</summary>
    public long SharedTokens { get; init; }

    /// <summary>Sequences that had to give up their blocks, since the start.</summary>
    public long Preemptions { get; init; }

    /// <summary>Blocks of the key-value cache.</summary>
    public BlockUse Blocks { get; init; } = new(0, 0, 0);

    /// <summary>Adapters by place.</summary>
    public AdapterUse Adapters { get; init; } = new(0, 0, 0, 0, 0);

    /// <summary>Share of the engine's time, 0 to 1, that a training beside serving took lately.</summary>
    public double TrainingShare { get; init; }
}

/// <summary>Blocks of the key-value cache.</summary>
/// <param name="Total">All of them.</param>
/// <param name="Used">By sequences.</param>
/// <param name="Cached">By nobody, their content kept for prompts that begin alike.</param>
public sealed record BlockUse(int Total, int Used, int Cached);

/// <summary>Registered adapters by the fastest memory they are in.</summary>
/// <param name="OnDevice">Ready to run.</param>
/// <param name="OnHost">Their files are in memory.</param>
/// <param name="OnDisk">Registered only.</param>
/// <param name="DeviceBytes">Memory of the first, versions that were replaced and still run included.</param>
/// <param name="HostBytes">Memory of files.</param>
public sealed record AdapterUse(int OnDevice, int OnHost, int OnDisk, long DeviceBytes, long HostBytes);

/// <summary>The engine takes no more requests for now: try again later.</summary>
public sealed class EngineBusyException(string message) : LoraSharpException(message);

/// <summary>A request names a model or adapter that is not there.</summary>
public sealed class UnknownAdapterException(string message) : LoraSharpException(message);

/// <summary>The engine has stopped or stops: it takes and finishes nothing any more.</summary>
public sealed class EngineStoppedException() : LoraSharpException("The server is shutting down.");

/// <summary>The computation itself failed: a fault of the engine, not of the request.</summary>
public sealed class EngineFailureException(Exception inner) : LoraSharpException($"The model failed: {inner?.Message}", inner);

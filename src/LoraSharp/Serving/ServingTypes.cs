using LoraSharp.Formats;
using LoraSharp.Inference;

namespace LoraSharp.Serving;

/// <summary>Bounds of an engine.</summary>
public sealed record EngineLimits
{
    /// <summary>Sequences computed side by side.</summary>
    public int MaxBatch { get; init; } = 16;

    /// <summary>Requests that may wait; one more is refused.</summary>
    public int MaxWaiting { get; init; } = 256;

    /// <summary>Longest sequence, prompt and answer; 0 for the model's own limit.</summary>
    public int MaxLength { get; init; }

    /// <summary>Tokens that all running sequences may hold in their caches together.</summary>
    public long CacheTokens { get; init; } = 1 << 17;

    /// <summary>Adapters kept in memory; the least recently used idle one makes room.</summary>
    public int MaxLoadedAdapters { get; init; } = 64;
}

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

/// <summary>A registered adapter.</summary>
/// <param name="Name">What requests call it.</param>
/// <param name="Path">Where it lies.</param>
/// <param name="IsLoaded">Whether its tensors are in memory.</param>
/// <param name="Rank">Its rank; 0 before it was first loaded.</param>
public sealed record AdapterInfo(string Name, string Path, bool IsLoaded, int Rank);

/// <summary>Where the engine stands.</summary>
/// <param name="Running">Sequences being computed.</param>
/// <param name="Waiting">Requests that wait.</param>
/// <param name="CachedTokens">Tokens held in caches.</param>
/// <param name="GeneratedTokens">Since the start.</param>
/// <param name="PromptTokens">Since the start.</param>
/// <param name="Steps">Forward passes since the start.</param>
public sealed record EngineStatus(int Running, int Waiting, long CachedTokens, long GeneratedTokens, long PromptTokens, long Steps);

/// <summary>The engine takes no more requests for now: try again later.</summary>
public sealed class EngineBusyException(string message) : LoraSharpException(message);

/// <summary>A request names a model or adapter that is not there.</summary>
public sealed class UnknownAdapterException(string message) : LoraSharpException(message);

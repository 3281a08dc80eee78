using System.Runtime.InteropServices;
using System.Threading.Channels;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Serving.Cache;
using LoraSharp.Serving.Shelf;

namespace LoraSharp.Serving;

/// <summary>A request on its way through the engine; touched by the engine's thread only, but for the channel and the cancellation.</summary>
internal sealed class RunningSequence(InferenceRequest request, Tokenizer? tokenizer, SequenceBlocks blocks, CancellationToken cancellation)
{
    private readonly TextStream? _stream = tokenizer is null ? null : new TextStream(tokenizer, request.Options.StopStrings, request.Options.SkipSpecialTokens);
    private readonly List<int> _tokens = [.. request.Prompt];
    private List<TokenScore>? _promptScores;

    public InferenceRequest Request { get; } = request;

    public Channel<TokenUpdate> Updates { get; } = Channel.CreateUnbounded<TokenUpdate>(new UnboundedChannelOptions { SingleWriter = true });

    public Sampler Sampler { get; } = new(request.Options.Sampling, request.Prompt);

    /// <summary>Prompt and answer.</summary>
    public IReadOnlyList<int> Tokens => _tokens;

    public ReadOnlySpan<int> TokenSpan => CollectionsMarshal.AsSpan(_tokens);

    /// <summary>Its part of the cache.</summary>
    public SequenceBlocks Blocks { get; } = blocks;

    /// <summary>The version of its adapter that it began with; null for the base.</summary>
    public AdapterVersion? Adapter { get; set; }

    /// <summary>What its keys and values depend on besides its tokens.</summary>
    public PrefixKey ContentKey { get; set; }

    /// <summary>Most tokens it may generate.</summary>
    public int Room { get; init; }

    /// <summary>Most tokens it may come to, prompt and answer.</summary>
    public int Longest => Request.Prompt.Count + Room;

    /// <summary>Its number in the order of arrival.</summary>
    public long Arrival { get; set; }

    /// <summary>Whether it holds blocks and is part of the steps.</summary>
    public bool IsRunning { get; set; }

    /// <summary>Tokens to compute before the next one can be chosen.</summary>
    public int Remaining => _tokens.Count - Blocks.Computed;

    public bool IsCancelled => cancellation.IsCancellationRequested;

    public bool HasEnded { get; private set; }

    /// <summary>When things happened, for the metrics.</summary>
    public RequestTimes Times { get; } = new();

    /// <summary>Why it ended; null while it goes on and where it failed.</summary>
    public FinishReason? Finish { get; private set; }

    /// <summary>What made it fail; null where nothing did.</summary>
    public Exception? Error { get; private set; }

    /// <summary>Whether the logits of a prompt's tokens from here on are still wanted.</summary>
    public bool NeedsPromptScores(int start) =>
        Request is { PromptLogProbabilities: true, LogProbabilities: not null } && start + 1 < Request.Prompt.Count && start + 1 >= (_promptScores?.Count ?? 1);

    /// <summary>The logits of the prompt's token at a place are there: how likely was the one that follows it?</summary>
    public void ScorePrompt(int place, Func<int, TokenScore> score)
    {
        _promptScores ??= [new(_tokens[0], null, [])];
        if (place + 1 == _promptScores.Count && place + 1 < Request.Prompt.Count)
        {
            _promptScores.Add(score(_tokens[place + 1]));
        }
    }

    /// <summary>Takes the next token, tells the caller, and sees whether the sequence has ended.</summary>
    public void Accept(int token, TokenScore? score)
    {
        _tokens.Add(token);
        GenerationOptions options = Request.Options;
        bool end = !options.IgnoreEos && options.EosTokenIds.Contains(token);
        string text = end || _stream is null ? "" : _stream.Add(token);
        Finish = end || _stream?.Stopped == true || Sampler.HasEnded ? FinishReason.Stop : _tokens.Count >= Longest ? FinishReason.Length : null;
        if (Finish is not null)
        {
            text += _stream?.Flush() ?? "";
            HasEnded = true;
        }

        Updates.Writer.TryWrite(new TokenUpdate(token, text, score, Finish, _promptScores));
        _promptScores = null;
        if (HasEnded)
        {
            Updates.Writer.TryComplete();
        }
    }

    public void Fail(Exception error)
    {
        if (!HasEnded)
        {
            HasEnded = true;
            Error = error;
            Updates.Writer.TryComplete(error);
        }
    }
}

/// <summary>When a request came, began, and gave its tokens; timestamps of the engine's clock, 0 for not yet.</summary>
internal sealed class RequestTimes
{
    public long Arrived { get; set; }

    public long Admitted { get; set; }

    public long FirstToken { get; set; }

    public long LastToken { get; set; }
}

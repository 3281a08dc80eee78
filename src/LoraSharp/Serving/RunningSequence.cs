using System.Threading.Channels;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Layers;

namespace LoraSharp.Serving;

/// <summary>A request on its way through the engine; touched by the engine's thread only, but for the channel and the cancellation.</summary>
internal sealed class RunningSequence(InferenceRequest request, Tokenizer? tokenizer, CancellationToken cancellation)
{
    private readonly TextStream? _stream = tokenizer is null ? null : new TextStream(tokenizer, request.Options.StopStrings, request.Options.SkipSpecialTokens);

    public InferenceRequest Request { get; } = request;

    public Channel<TokenUpdate> Updates { get; } = Channel.CreateUnbounded<TokenUpdate>(new UnboundedChannelOptions { SingleWriter = true });

    public Sampler Sampler { get; } = new(request.Options.Sampling, request.Prompt);

    public List<int> Tokens { get; } = [.. request.Prompt];

    public AdapterVersion? Adapter { get; set; }

    public KeyValueCache? Cache { get; set; }

    /// <summary>Longest it may become.</summary>
    public int Room { get; set; }

    public bool IsCancelled => cancellation.IsCancellationRequested;

    public bool HasEnded { get; private set; }

    public IReadOnlyList<TokenScore>? PromptScores { get; set; }

    /// <summary>Takes the next token, tells the caller, and sees whether the sequence has ended.</summary>
    public void Accept(int token, TokenScore? score)
    {
        Tokens.Add(token);
        GenerationOptions options = Request.Options;
        bool end = !options.IgnoreEos && options.EosTokenIds.Contains(token);
        string text = end || _stream is null ? "" : _stream.Add(token);
        FinishReason? finish = end || _stream?.Stopped == true || Sampler.HasEnded ? FinishReason.Stop : Tokens.Count - Request.Prompt.Count >= Room ? FinishReason.Length : null;
        if (finish is not null)
        {
            text += _stream?.Flush() ?? "";
            HasEnded = true;
        }

        Updates.Writer.TryWrite(new TokenUpdate(token, text, score, finish, PromptScores));
        PromptScores = null;
        if (HasEnded)
        {
            Updates.Writer.TryComplete();
        }
    }

    public void Fail(Exception error)
    {
        HasEnded = true;
        Updates.Writer.TryComplete(error);
    }
}

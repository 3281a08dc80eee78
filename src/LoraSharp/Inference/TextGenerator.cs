using LoraSharp.Formats;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Inference;

/// <summary>
/// Generates one text at a time, token by token with a cache: the plain loop, kept as the reference for serving.
/// </summary>
/// <param name="model">Stays the caller's.</param>
/// <param name="tokenizer">Gives the text and finds stop strings; null for token ids only.</param>
public sealed class TextGenerator(CausalLanguageModel model, Tokenizer? tokenizer = null)
{
    /// <summary>Continues a prompt.</summary>
    /// <param name="prompt">Token ids, at least one.</param>
    /// <param name="options">When to end and how to choose.</param>
    /// <param name="onToken">Called after each token with its id and the text that became certain with it (may be empty).</param>
    /// <param name="cancellation">Ends the text between two tokens.</param>
    /// <exception cref="LoraSharpException">The prompt is empty, has ids outside the vocabulary, or is longer than the model's learned positions.</exception>
    public GeneratedText Generate(IReadOnlyList<int> prompt, GenerationOptions options, Action<int, string>? onToken = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        int room = Room(prompt, options);
        TextStream? stream = tokenizer is null ? null : new(tokenizer, options.StopStrings);
        var sampler = new Sampler(options.Sampling, prompt);
        using var frozen = no_grad();
        using var sequence = new CachedSequence(model, prompt, room);
        var generated = new List<int>();
        FinishReason reason = FinishReason.Length;
        while (generated.Count < room)
        {
            cancellation.ThrowIfCancellationRequested();
            int token = sequence.Next(sampler);
            generated.Add(token);
            bool end = !options.IgnoreEos && options.EosTokenIds.Contains(token);
            string piece = end || stream is null ? string.Empty : stream.Add(token);
            onToken?.Invoke(token, piece);
            if (end || stream?.Stopped == true || sampler.HasEnded)
            {
                reason = FinishReason.Stop;
                break;
            }
        }

        if (stream?.Flush() is { Length: > 0 } rest)
        {
            onToken?.Invoke(generated[^1], rest);
        }

        return new GeneratedText(generated, stream?.Text ?? string.Empty, reason, prompt.Count);
    }

    private int Room(IReadOnlyList<int> prompt, GenerationOptions options)
    {
        if (prompt.Count == 0)
        {
            throw new LoraSharpException("The prompt has no tokens. Give it some text, or a model whose tokenizer adds a beginning-of-text token.");
        }

        int[] outside = [.. prompt.Where(id => id < 0 || id >= model.Config.VocabularySize).Take(1)];
        if (outside.Length > 0)
        {
            throw new LoraSharpException($"Token id {outside[0]} of the prompt is outside the model's vocabulary of {model.Config.VocabularySize}. The tokenizer is not this model's.");
        }

        // Rotary positions can go on beyond what the model was made for; a learned table ends.
        int room = model.Config.Positions is { } table ? Math.Min(options.MaxTokens, table.Count - prompt.Count + 1) : options.MaxTokens;
        return room >= 1 ? room : throw new LoraSharpException($"The prompt has {prompt.Count} tokens; the model has {model.Config.Positions!.Count} positions. Shorten it.");
    }

    /// <summary>A growing sequence and its cache.</summary>
    private sealed class CachedSequence : IDisposable
    {
        private readonly CausalLanguageModel _model;
        private readonly List<int> _tokens;
        private readonly int _capacity;
        private KeyValueCache _cache;

        public CachedSequence(CausalLanguageModel model, IReadOnlyList<int> prompt, int room)
        {
            _model = model;
            _tokens = [.. prompt];
            _capacity = Math.Min(prompt.Count + room, 1024);
            _cache = new(model.LayerCount, null, _capacity);
        }

        /// <summary>Runs what the cache has not seen and chooses the next token.</summary>
        public int Next(Sampler sampler)
        {
            using var scope = NewDisposeScope();
            long past = _cache.Length;
            if (past > 0 && _model.InvalidatesCache(past, _tokens.Count))
            {
                _cache.Dispose();
                _cache = new(_model.LayerCount, null, _capacity);
                past = 0;
            }

            long[] fresh = [.. _tokens.Skip((int)past).Select(t => (long)t)];
            Tensor ids = tensor(fresh, device: _model.Device).unsqueeze(0);
            Tensor positions = arange(past, _tokens.Count, ScalarType.Int64, _model.Device).unsqueeze(0);
            Tensor hidden = _model.Hidden(ids, positions, _cache);
            Tensor logits = _model.Logits(hidden.narrow(1, fresh.Length - 1, 1)).view(-1);
            int token = Choose(logits, sampler);
            _tokens.Add(token);
            return token;
        }

        public void Dispose() => _cache.Dispose();

        private static unsafe int Choose(Tensor logits, Sampler sampler)
        {
            if (sampler.Options.IsGreedy && logits.device.type != TorchSharp.DeviceType.CPU)
            {
                int best = (int)logits.argmax().item<long>();
                sampler.Accept(best);
                return best;
            }

            Tensor host = logits.to(ScalarType.Float32).cpu().contiguous();
            return sampler.Next(new ReadOnlySpan<float>((void*)AtenTensor.DataPointer(host), checked((int)host.NumberOfElements)));
        }
    }
}

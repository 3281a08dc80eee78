using LoraSharp.Formats;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Inference;

/// <summary>
/// Generates several texts side by side, padded on the left, until all have ended: for evaluation. Serving has a
/// scheduler of its own.
/// </summary>
/// <param name="model">Stays the caller's.</param>
/// <param name="tokenizer">Gives the texts; null for token ids only.</param>
public sealed class BatchGenerator(CausalLanguageModel model, Tokenizer? tokenizer = null)
{
    /// <summary>Continues each prompt; the results are in their order.</summary>
    /// <param name="prompts">Token ids, at least one each.</param>
    /// <param name="options">Shared by all; row i samples with seed + i.</param>
    public IReadOnlyList<GeneratedText> Generate(IReadOnlyList<IReadOnlyList<int>> prompts, GenerationOptions options) => Sample(prompts, 1, options);

    /// <summary>Continues each prompt several times; a prompt is run once for all of its continuations.</summary>
    /// <param name="prompts">Token ids, at least one each.</param>
    /// <param name="count">Continuations of each.</param>
    /// <param name="options">Shared by all; the i-th continuation, those of a prompt side by side, samples with seed + i.</param>
    /// <returns>Continuations, those of a prompt side by side.</returns>
    public IReadOnlyList<GeneratedText> Sample(IReadOnlyList<IReadOnlyList<int>> prompts, int count, GenerationOptions options)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        options.Validate();
        int longest = prompts.Count == 0 ? 0 : prompts.Max(p => p.Count);
        if (prompts.Count == 0 || prompts.Any(p => p.Count == 0))
        {
            return prompts.Count == 0 ? [] : throw new LoraSharpException("A prompt has no tokens.");
        }

        (IReadOnlyList<int> Prompt, GenerationOptions Options)[] asked =
            [.. Enumerable.Range(0, prompts.Count * count).Select(i => (prompts[i / count], options with { Sampling = options.Sampling with { Seed = options.Sampling.Seed + i } }))];
        if (model.InvalidatesCache(prompts.Min(p => p.Count), longest + options.MaxTokens))
        {
            // Rows would switch their frequencies at different steps.
            var single = new TextGenerator(model, tokenizer);
            return [.. asked.Select(a => single.Generate(a.Prompt, a.Options))];
        }

        Row[] rows = [.. asked.Select(a => new Row(a.Prompt, a.Options, tokenizer, model.Config.Positions?.Count))];
        Run(prompts, rows, longest, options.MaxTokens);
        return [.. rows.Select(r => r.Result())];
    }

    private void Run(IReadOnlyList<IReadOnlyList<int>> prompts, Row[] rows, int longest, int maxTokens)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        int Begin(int prompt) => longest - prompts[prompt].Count;
        Tensor mask = Matrix(prompts.Count, longest, (i, column) => column >= Begin(i) ? 1 : 0);
        using var cache = new KeyValueCache(model.LayerCount, mask, longest + Math.Min(maxTokens, 1024));
        using (NewDisposeScope())
        {
            Tensor ids = Matrix(prompts.Count, longest, (i, column) => column >= Begin(i) ? prompts[i][column - Begin(i)] : 0);
            Tensor positions = Matrix(prompts.Count, longest, (i, column) => Math.Max(0, column - Begin(i)));
            Step(rows, Last(ids, positions, cache));
        }

        if (rows.Length > prompts.Count)
        {
            cache.RepeatRows(rows.Length / prompts.Count);
        }

        while (!Array.TrueForAll(rows, r => r.Ended))
        {
            using var step = NewDisposeScope();
            Step(rows, Last(Matrix(rows.Length, 1, (i, _) => rows[i].Last), Matrix(rows.Length, 1, (i, _) => rows[i].Position), cache));
        }
    }

    // Logits after the last token of each row.
    private Tensor Last(Tensor ids, Tensor positions, KeyValueCache cache) =>
        model.Logits(model.Hidden(ids, positions, cache).narrow(1, ids.shape[1] - 1, 1)).squeeze(1);

    // Of the prompts' logits a row serves all continuations of its prompt.
    private static unsafe void Step(Row[] rows, Tensor logits)
    {
        if (Array.TrueForAll(rows, r => r.IsGreedy))
        {
            // The first of the largest, as the sampler takes it; a vocabulary of logits a row stays on the device.
            long[] best = logits.argmax(1).cpu().data<long>().ToArray();
            for (int i = 0; i < rows.Length; i++)
            {
                rows[i].Take((int)best[i]);
            }

            return;
        }

        Tensor host = logits.to(ScalarType.Float32).cpu().contiguous();
        int v = checked((int)host.shape[1]);
        long share = rows.Length / host.shape[0];
        float* values = (float*)AtenTensor.DataPointer(host);
        for (int i = 0; i < rows.Length; i++)
        {
            rows[i].Take(new ReadOnlySpan<float>(values + (i / share * v), v));
        }
    }

    private Tensor Matrix(int rows, int width, Func<int, int, long> value)
    {
        long[] flat = new long[rows * width];
        for (int i = 0; i < flat.Length; i++)
        {
            flat[i] = value(i / width, i % width);
        }

        using Tensor host = tensor(flat);
        return host.view(rows, width).to(model.Device);
    }

    private sealed class Row
    {
        private readonly GenerationOptions _options;
        private readonly Sampler _sampler;
        private readonly TextStream? _stream;
        private readonly List<int> _tokens = [];
        private readonly int _room;
        private FinishReason _reason = FinishReason.Length;

        public Row(IReadOnlyList<int> prompt, GenerationOptions options, Tokenizer? tokenizer, int? positions)
        {
            Prompt = prompt;
            _options = options;
            _sampler = new(options.Sampling, prompt);
            _stream = tokenizer is null ? null : new(tokenizer, options.StopStrings);
            _room = positions is { } count ? Math.Min(options.MaxTokens, count - prompt.Count + 1) : options.MaxTokens;
        }

        public IReadOnlyList<int> Prompt { get; }

        public bool Ended { get; private set; }

        public long Last => _tokens[^1];

        public long Position => Prompt.Count + _tokens.Count - 1;

        public bool IsGreedy => _options.Sampling.IsGreedy;

        public void Take(ReadOnlySpan<float> logits)
        {
            if (!Ended)
            {
                Take(_sampler.Next(logits));
            }
        }

        public void Take(int token)
        {
            if (Ended)
            {
                return;
            }

            _tokens.Add(token);
            bool end = !_options.IgnoreEos && _options.EosTokenIds.Contains(token);
            if (!end)
            {
                _stream?.Add(token);
            }

            _reason = end || _stream?.Stopped == true || _sampler.HasEnded ? FinishReason.Stop : FinishReason.Length;
            Ended = _reason == FinishReason.Stop || _tokens.Count >= _room;
        }

        public GeneratedText Result()
        {
            _stream?.Flush();
            return new(_tokens, _stream?.Text ?? string.Empty, _reason, Prompt.Count);
        }
    }
}

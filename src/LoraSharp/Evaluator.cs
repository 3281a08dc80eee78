using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;

namespace LoraSharp;

/// <summary>How well a model predicts rows.</summary>
/// <param name="Loss">Mean −log p of the supervised tokens, nats.</param>
/// <param name="Accuracy">Share of supervised tokens that are the most probable one, 0 to 1.</param>
/// <param name="Tokens">Supervised tokens.</param>
/// <param name="Rows">Rows.</param>
public sealed record LossReport(double Loss, double Accuracy, long Tokens, int Rows)
{
    /// <summary>exp(loss).</summary>
    public double Perplexity => Math.Exp(Loss);
}

/// <summary>A generated answer beside what was expected.</summary>
/// <param name="Origin">File and line.</param>
/// <param name="Prompt">The prompt as text.</param>
/// <param name="Text">What was generated.</param>
/// <param name="References">What counts as right.</param>
public sealed record GeneratedRow(string Origin, string Prompt, string Text, IReadOnlyList<string> References);

/// <summary>Measures a model, with whatever adapters are selected, on a data set.</summary>
public static class Evaluator
{
    /// <summary>Loss and token accuracy over all rows.</summary>
    /// <param name="loaded">The model.</param>
    /// <param name="rows">Tokenized rows.</param>
    /// <param name="batchSize">Rows of a forward pass.</param>
    public static LossReport Loss(LoadedModel loaded, IExamples rows, int batchSize)
    {
        ArgumentNullException.ThrowIfNull(loaded);
        ArgumentNullException.ThrowIfNull(rows);
        var objective = new LanguageModelingObjective(loaded.Model, new TrainerOptions());
        double sum = 0;
        double hits = 0;
        double weight = 0;
        foreach (MicroBatch batch in BatchPlanner.InOrder(rows, batchSize))
        {
            using MicroBatchLoss part = objective.Evaluate(batch);
            sum += part.Sum.item<double>();
            hits += part.Metrics["accuracy"].item<double>();
            weight += part.Weight;
        }

        return new LossReport(sum / weight, hits / weight, (long)Math.Round(weight), rows.Count);
    }

    /// <summary>Generates the last answer of each row from what comes before it.</summary>
    /// <param name="loaded">The model.</param>
    /// <param name="rows">Tokenized rows; the last supervised stretch of each is the answer.</param>
    /// <param name="references">For each row all right answers; null: its own answer.</param>
    /// <param name="options">Length, sampling.</param>
    /// <param name="batchSize">Rows generated side by side.</param>
    /// <param name="progress">Told the number of rows done.</param>
    public static IReadOnlyList<GeneratedRow> Generate(LoadedModel loaded, IExamples rows, IReadOnlyList<IReadOnlyList<string>>? references, GenerationOptions options, int batchSize, Action<int>? progress = null)
    {
        ArgumentNullException.ThrowIfNull(loaded);
        ArgumentNullException.ThrowIfNull(rows);
        Tokenizer tokenizer = loaded.Tokenizer;
        var generator = new BatchGenerator(loaded.Model, tokenizer);
        var results = new GeneratedRow[rows.Count];
        // Rows of similar length side by side waste the least.
        int[] order = [.. Enumerable.Range(0, rows.Count).OrderByDescending(rows.Length)];
        int done = 0;
        foreach (int[] chunk in order.Chunk(batchSize))
        {
            (TrainingExample Row, int Start, int End)[] parts = [.. chunk.Select(i => Answer(rows[i]))];
            IReadOnlyList<GeneratedText> texts = generator.Generate([.. parts.Select(p => (IReadOnlyList<int>)p.Row.InputIds[..p.Start])], options);
            for (int j = 0; j < chunk.Length; j++)
            {
                (TrainingExample row, int start, int end) = parts[j];
                results[chunk[j]] = new GeneratedRow(
                    row.Origin,
                    tokenizer.Decode(row.InputIds[..start]),
                    texts[j].Text,
                    references?[chunk[j]] ?? [tokenizer.Decode(row.InputIds[start..end], skipSpecialTokens: true)]);
            }

            progress?.Invoke(done += chunk.Length);
        }

        return results;
    }

    /// <summary>All right answers of prompt rows, in order; null when the rows are of another kind.</summary>
    public static IReadOnlyList<IReadOnlyList<string>>? References(DataOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        var all = new List<IReadOnlyList<string>>();
        foreach ((DatasetRow _, RowContent content) in TrainingData.Rows(options, options.Train))
        {
            if (content is not PromptContent prompt)
            {
                return null;
            }

            all.Add(prompt.References is { Count: > 0 } several ? several : [prompt.Completion]);
        }

        return options.MaxSamples > 0 ? [.. all.Take(options.MaxSamples)] : all;
    }

    private static (TrainingExample Row, int Start, int End) Answer(TrainingExample row)
    {
        int end = Array.FindLastIndex(row.Labels, l => l != TrainingExample.Ignored) + 1;
        int start = end;
        while (start > 1 && row.Labels[start - 1] != TrainingExample.Ignored)
        {
            start--;
        }

        return (row, Math.Max(1, start), Math.Max(1, end));
    }
}

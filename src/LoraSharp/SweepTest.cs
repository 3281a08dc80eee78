using LoraSharp.Evaluation;
using LoraSharp.Inference;
using LoraSharp.Recipes;
using LoraSharp.Training.Data;

namespace LoraSharp;

/// <summary>How a trained trial does on rows it has never seen.</summary>
/// <param name="Loss">Loss and token accuracy.</param>
/// <param name="Scores">Of the generated answers; null when none were generated.</param>
public sealed record TestScores(LossReport Loss, TextScores? Scores);

/// <summary>The test rows of a sweep, tokenized once for all trials.</summary>
internal sealed class SweepTest : IDisposable
{
    private readonly TrainingData _data;
    private readonly IReadOnlyList<IReadOnlyList<string>>? _references;
    private readonly SweepRecipe _settings;

    private SweepTest(TrainingData data, IReadOnlyList<IReadOnlyList<string>>? references, SweepRecipe settings)
    {
        _data = data;
        _references = references?.Count == data.Train.Count ? references : null;
        _settings = settings;
    }

    /// <summary>Reads the rows as the training rows are read; null when the recipe names none.</summary>
    /// <param name="settings">The recipe's.</param>
    /// <param name="data">How training rows become tokens.</param>
    /// <param name="path">The file, found.</param>
    /// <param name="loaded">For its tokenizer.</param>
    public static SweepTest Load(SweepRecipe settings, DataOptions data, string path, LoadedModel loaded)
    {
        DataOptions options = data with
        {
            Train = [new DataSource { Path = path }],
            Validation = new ValidationSource(),
            MaxSamples = settings.TestRows,
        };
        return new SweepTest(TrainingData.Load(options with { VocabularySize = loaded.Model.Config.VocabularySize }, loaded.TokenizerOrNull, loaded.ChatRenderer), Evaluator.References(options), settings);
    }

    /// <summary>Measures the model with what is selected on it.</summary>
    public TestScores Measure(LoadedModel loaded)
    {
        LossReport loss = Evaluator.Loss(loaded, _data.Train, _settings.TestBatchSize);
        if (_settings.TestTokens == 0)
        {
            return new TestScores(loss, null);
        }

        var options = new GenerationOptions { MaxTokens = _settings.TestTokens, EosTokenIds = loaded.Generation.EosTokenIds };
        IReadOnlyList<GeneratedRow> rows = Evaluator.Generate(loaded, _data.Train, _references, options, _settings.TestBatchSize);
        return new TestScores(loss, TextScores.Compute([.. rows.Select(r => r.Text)], [.. rows.Select(r => r.References)]));
    }

    /// <summary>Frees the rows.</summary>
    public void Dispose() => _data.Dispose();
}

using LoraSharp.Recipes;
using LoraSharp.Serving;
using LoraSharp.Training;

namespace LoraSharp.Tests.Serving;

/// <summary>A fine-tune on the served base: answers stay right meanwhile, and its losses are those of a run by itself.</summary>
[CollectionDefinition(nameof(TrainingBesideServingTests), DisableParallelization = true)]
[Collection(nameof(TrainingBesideServingTests))]
public sealed class TrainingBesideServingTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("beside").FullName;

    [Fact]
    public async Task Answers_stay_right_and_the_losses_are_those_of_a_run_by_itself()
    {
        string model = Fixtures.Path("models/llama");
        string data = Path.Combine(_folder, "rows.jsonl");
        await File.WriteAllLinesAsync(data, Enumerable.Range(0, 12).Select(i => $$"""{"input_ids": [5, {{10 + i}}, 20, {{30 + i}}, 7], "labels": [-100, {{10 + i}}, 20, {{30 + i}}, 7]}"""), TestContext.Current.CancellationToken);
        Recipe Recipe(string output) => new()
        {
            Model = model,
            Device = "cpu",
            Dtype = "float32",
            Output = Path.Combine(_folder, output),
            Data = new DataRecipe { Train = [new DataSourceRecipe { Path = data }] },
            Training = new TrainingRecipe { MaxSteps = 6, BatchSize = 2, LearningRate = 1e-2 },
        };
        FineTuneResult alone = new FineTuneRun(Recipe("alone")).Execute(cancellation: TestContext.Current.CancellationToken);

        string[] adapters = ["all_linear", "dora"];
        await using var bench = new EngineBench(model, adapters);
        using InferenceEngine engine = bench.Served.CreateEngine(new EngineLimits());
        foreach (string name in adapters)
        {
            await engine.RegisterAsync(name, Fixtures.Path("adapters/" + name));
        }

        Task<FineTuneResult> training = TrainingBesideServing.RunAsync(engine, bench.Served, Recipe("beside"), "fresh", 0.5, cancellation: TestContext.Current.CancellationToken);
        int answers = 0;
        while (!training.IsCompleted || answers < 4)
        {
            Job job = new(answers % 3 == 2 ? null : adapters[answers % 3], [5, 6, 7 + (answers % 5)], 8, 0);
            Assert.Equal(bench.Expected(job), await EngineBench.RunAsync(engine, job));
            answers++;
        }

        FineTuneResult result = await training;
        Assert.True(result.Complete);
        Assert.Equal(TrainingEnd.Completed, result.Training.End);
        Assert.Equal(alone.Training.Steps, result.Training.Steps);
        Assert.Equal(alone.Training.Loss, result.Training.Loss, 1e-6);
        Assert.Equal(8, (await EngineBench.RunAsync(engine, new Job("fresh", [5, 11], 8, 0))).Count);
        Assert.DoesNotContain("default", bench.Served.Adapters.Adapters.Keys);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);
}

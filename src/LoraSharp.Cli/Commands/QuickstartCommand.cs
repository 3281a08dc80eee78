using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Inference;
using LoraSharp.Recipes;
using LoraSharp.Training.Data;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora quickstart</c>: the main job on the model and rows that come with the tool.</summary>
internal static class QuickstartCommand
{
    private const int BatchSize = 50;

    public static Command Create()
    {
        var output = new Option<string>("--output") { Description = "Run folder; an earlier quickstart in it is replaced.", HelpName = "DIR", DefaultValueFactory = _ => Path.Combine("runs", "quickstart") };
        var steps = new Option<int>("--steps") { Description = "Optimizer steps.", HelpName = "N", DefaultValueFactory = _ => 80 };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("quickstart", "Fine-tune, merge and run the embedded model: about a minute on two CPU cores.\nExample: lora quickstart") { output, steps, json };
        command.SetAction((parsed, cancellation) => Task.FromResult(Run(parsed.GetValue(output)!, parsed.GetValue(steps), parsed.GetValue(json), cancellation)));
        return command;
    }

    private static int Run(string output, int steps, bool json, CancellationToken cancellation)
    {
        TextWriter text = json ? TextWriter.Null : Console.Out;
        string assets = Path.Combine(AppContext.BaseDirectory, "assets");
        string model = Path.Combine(assets, "tiny-base");
        string test = Path.Combine(assets, "quickstart", "test.jsonl");
        if (!Directory.Exists(model))
        {
            throw new LoraSharpException($"{model}: the embedded model is missing. Install the tool again.");
        }

        var clock = Stopwatch.StartNew();
        text.WriteLine("The task: turn a record of a place to eat into a sentence. 800 rows to learn from, 100 unseen ones to be measured on.");
        text.WriteLine("The model: tiny-base, 7.7 M parameters (Apache-2.0); it knows English and patterns, but not this task.\n");
        text.WriteLine("1. Before");
        Measured before = Measure(model, null, test);
        text.WriteLine($"   {before}\n");

        text.WriteLine("2. Fine-tuning with LoRA: r = 16 on every linear layer, the base frozen");
        Recipe recipe = RecipeReader.Read(null, new Dictionary<string, string>
        {
            ["model"] = model,
            ["output"] = output,
            ["overwrite"] = "true",
            ["data.train"] = Path.Combine(assets, "quickstart", "train.jsonl"),
            ["adapter.rank"] = "16",
            ["adapter.alpha"] = "32",
            ["training.learning_rate"] = "5e-3",
            ["training.max_steps"] = steps.ToString(CultureInfo.InvariantCulture),
            ["training.batch_size"] = "16",
            ["training.gradient_accumulation"] = "1",
            ["training.warmup_steps"] = "10",
            ["training.seed"] = "0",
            ["training.gradient_checkpointing"] = "off",
        });
        using (var progress = new TrainingProgress(text, !json && !Console.IsOutputRedirected))
        {
            // What there is to note of the rows stands above.
            FineTuneResult trained = new FineTuneRun(recipe).Execute([progress], notes: null, cancellation);
            if (!trained.Complete)
            {
                return 1;
            }
        }

        text.WriteLine("\n3. After");
        Measured after = Measure(model, output, test);
        text.WriteLine($"   {after}\n");
        Samples(text, before, after);

        string merged = Path.Combine(output, "merged");
        if (Directory.Exists(merged))
        {
            Directory.Delete(merged, recursive: true);
        }

        MergeProbeReport probe = Merge(model, output, merged);
        text.WriteLine(string.Create(CultureInfo.InvariantCulture, $"4. Merged into W' = W + (alpha/r)·B·A: the logits differ from base + adapter by at most {probe.MaxLogitDifference:0.0e+0} (logits reach {probe.MaxLogit:0.0}); the top token is the same at {probe.Positions - probe.TopTokenChanges} of {probe.Positions} positions."));
        text.WriteLine($"\nDone in {clock.Elapsed.TotalSeconds.ToString("0", CultureInfo.InvariantCulture)} s. In {output}: the adapter (PEFT loads it), README.md, recipe.yaml, metrics.jsonl, loss.png, merged/.");
        text.WriteLine($"""

            Next:
              lora generate --model {Quoted(model)} --adapter {output} --prompt {Line("name: The Blue Fig | food: Greek | area: harbour | price: cheap | rating: 4 of 5 | family-friendly: no")} --temperature 0
              lora inspect {output} --spectrum
              lora train --model PATH_TO_A_HUGGING_FACE_MODEL --data your-rows.jsonl --output runs/mine --rank 8
            """);
        if (json)
        {
            CommandJson.Write(new { Output = Path.GetFullPath(output), Before = before.Numbers, After = after.Numbers, Merge = new { probe.MaxLogitDifference, probe.MaxLogit, probe.TopTokenChanges }, Seconds = clock.Elapsed.TotalSeconds });
        }

        return 0;
    }

    private static Measured Measure(string model, string? adapter, string test)
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = model, Device = "cpu", Adapters = adapter is null ? [] : [(adapter, 1)] });
        using TrainingData data = TrainingData.Load(new DataOptions { Train = [new DataSource { Path = test }] }, loaded.Tokenizer);
        LossReport loss = Evaluator.Loss(loaded, data.Train, BatchSize);
        IReadOnlyList<GeneratedRow> rows = Evaluator.Generate(loaded, data.Train, null, new GenerationOptions { MaxTokens = 64, EosTokenIds = loaded.Generation.EosTokenIds }, BatchSize);
        return new Measured(loss, rows);
    }

    private static MergeProbeReport Merge(string model, string adapter, string merged)
    {
        using ModelSource source = EngineSetup.OpenModel(model);
        using AdapterFolder folder = AdapterFolder.Open(adapter);
        MergedAdapter[] adapters = [new MergedAdapter(folder, 1)];
        _ = AdapterMerger.Merge(source, adapters, merged, new MergeOptions { StoredType = ElementType.F32 });
        using ModelSource result = EngineSetup.OpenModel(merged);
        return MergeProbe.Measure(source, adapters, result);
    }

    private static void Samples(TextWriter text, Measured before, Measured after)
    {
        for (int i = 0; i < 3; i++)
        {
            text.WriteLine($"   {before.Rows[i].Prompt.Trim()}");
            text.WriteLine($"     before: {Short(before.Rows[i].Text)}");
            text.WriteLine($"     after:  {Short(after.Rows[i].Text)}\n");
        }
    }

    private static string Short(string answer)
    {
        string line = answer.ReplaceLineEndings(" ").Trim();
        return line.Length > 140 ? line[..140] + "…" : line;
    }

    // With the line break that the rows end their prompts with, as bash and zsh or PowerShell write it.
    private static string Line(string text) => OperatingSystem.IsWindows() ? $"\"{text}`n\"" : $"$'{text}\\n'";

    private static string Quoted(string path) => path.Contains(' ') ? $"\"{path}\"" : path;

    /// <summary>Loss and answers on the test rows.</summary>
    private sealed record Measured(LossReport Loss, IReadOnlyList<GeneratedRow> Rows)
    {
        public int Right => Rows.Count(r => IsRight(r.Prompt, r.Text));

        public object Numbers => new { Loss.Loss, Loss.Perplexity, Right, Rows = Rows.Count };

        public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"test loss {Loss.Loss:0.000}, {Right} of {Rows.Count} answers right");

        /// <summary>Every value of the record word for word, and "family-friendly" or "not family-friendly" as it says.</summary>
        private static bool IsRight(string prompt, string answer)
        {
            foreach (string field in prompt.Trim().Split(" | "))
            {
                string[] pair = field.Split(": ", 2);
                bool fits = pair[0] == "family-friendly"
                    ? answer.Contains("family-friendly", StringComparison.Ordinal) && answer.Contains("not family-friendly", StringComparison.Ordinal) == (pair[1] == "no")
                    : answer.Contains(pair[1], StringComparison.Ordinal);
                if (!fits)
                {
                    return false;
                }
            }

            return true;
        }
    }
}

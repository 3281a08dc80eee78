using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using LoraSharp.Evaluation;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Training.Data;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora eval</c>.</summary>
internal static class EvalCommand
{
    public static Command Create()
    {
        var data = new Option<string>("--data") { Description = "Rows to measure on: a file or folder in any training format.", Required = true, HelpName = "PATH" };
        var format = new Option<string>("--format") { Description = "Format of the rows; auto looks at them.", HelpName = "NAME", DefaultValueFactory = _ => "auto" };
        format.AcceptOnlyFromAmong([.. DatasetFormats.Names]);
        var maxLength = new Option<int>("--max-length") { Description = "Longest row in tokens.", HelpName = "N", DefaultValueFactory = _ => 1024 };
        var maxSamples = new Option<int>("--max-samples") { Description = "Use at most this many rows; 0 for all.", HelpName = "N" };
        var batch = new Option<int>("--batch-size") { Description = "Rows side by side.", HelpName = "N", DefaultValueFactory = _ => 8 };
        var generate = new Option<bool>("--generate") { Description = "Also generate each answer and score it: exact match, BLEU, ROUGE, chrF." };
        var output = new Option<string?>("--output") { Description = "Write every generated row to this file, a JSON object a line.", HelpName = "FILE" };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("eval", "Measure loss, perplexity and, with --generate, the quality of the answers.\nExample: lora eval --model HuggingFaceTB/SmolLM2-135M-Instruct --adapter runs/mine --data test.jsonl --generate") { data, format, maxLength, maxSamples, batch, generate, output, json };
        var engine = new EngineInputs(command);
        var sampling = new SamplingInputs(command);
        command.SetAction(parsed =>
        {
            using LoadedModel loaded = engine.Load(parsed);
            var options = new DataOptions
            {
                Train = [new DataSource { Path = parsed.GetValue(data)! }],
                Format = DatasetFormats.Parse(parsed.GetValue(format)!),
                MaxLength = parsed.GetValue(maxLength),
                MaxSamples = parsed.GetValue(maxSamples),
                VocabularySize = loaded.Model.Config.VocabularySize,
            };
            using TrainingData rows = TrainingData.Load(options, loaded.TokenizerOrNull, loaded.ChatRenderer);
            LossReport loss = Evaluator.Loss(loaded, rows.Train, parsed.GetValue(batch));
            TextScores? scores = null;
            if (parsed.GetValue(generate))
            {
                IReadOnlyList<IReadOnlyList<string>>? references = Evaluator.References(options);
                references = references?.Count == rows.Train.Count ? references : null;
                IReadOnlyList<GeneratedRow> texts = Evaluator.Generate(loaded, rows.Train, references, sampling.Read(parsed, loaded.Generation), parsed.GetValue(batch));
                scores = TextScores.Compute([.. texts.Select(t => t.Text)], [.. texts.Select(t => t.References)]);
                if (parsed.GetValue(output) is { } path)
                {
                    AtomicFile.WriteText(path, string.Concat(texts.Select(t => new JsonObject { ["origin"] = t.Origin, ["prompt"] = t.Prompt, ["text"] = t.Text, ["references"] = new JsonArray([.. t.References.Select(r => (JsonNode)r)]) }.ToJsonString() + "\n")));
                }
            }

            Print(loss, scores, rows.Report, parsed.GetValue(json));
            return 0;
        });
        return command;
    }

    private static void Print(LossReport loss, TextScores? scores, DataReport report, bool json)
    {
        if (json)
        {
            JsonObject all = scores?.ToJson() ?? [];
            all["loss"] = loss.Loss;
            all["perplexity"] = loss.Perplexity;
            all["token_accuracy"] = loss.Accuracy;
            all["tokens"] = loss.Tokens;
            all["rows"] = loss.Rows;
            CommandJson.Write(all);
            return;
        }

        foreach (string warning in report.Warnings())
        {
            Console.Error.WriteLine($"note: {warning}");
        }

        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"loss {loss.Loss:0.0000}   perplexity {loss.Perplexity:0.###}   token accuracy {loss.Accuracy:P2}   ({loss.Tokens} tokens of {loss.Rows} rows)"));
        if (scores is not null)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"exact match {scores.ExactMatch:0.00}   BLEU {scores.Bleu.Score:0.00}   ROUGE-L {scores.RougeL:0.00}   chrF {scores.Chrf:0.00}   token F1 {scores.TokenF1:0.00}"));
            Console.WriteLine($"BLEU signature: {scores.Bleu.Signature}");
        }
    }
}

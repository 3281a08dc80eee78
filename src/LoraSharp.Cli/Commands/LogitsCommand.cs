using System.CommandLine;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Inference;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora logits</c>.</summary>
internal static class LogitsCommand
{
    public static Command Create()
    {
        var input = new Option<string>("--input") { Description = "Safetensors file with input_ids [b, s] and, if rows are padded, attention_mask [b, s].", Required = true, HelpName = "FILE" };
        var output = new Option<string>("--output") { Description = "Safetensors file to write logits [b, s, v] to, in float32.", Required = true, HelpName = "FILE" };
        var command = new Command("logits", "Logits of given token ids, to compare with another implementation.\nExample: lora logits --model HuggingFaceTB/SmolLM2-135M-Instruct --input ids.safetensors --output logits.safetensors") { input, output };
        var engine = new EngineInputs(command);
        command.SetAction(parsed =>
        {
            using LoadedModel loaded = engine.Load(parsed);
            using SafetensorsFile file = SafetensorsFile.Open(parsed.GetValue(input)!);
            string target = parsed.GetValue(output)!;
            BatchLogits.Write(loaded.Model, file, target);
            Console.Out.WriteLine($"Wrote {target}");
            return 0;
        });
        return command;
    }
}

using System.CommandLine;
using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using static TorchSharp.torch;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora convert</c>.</summary>
internal static class ConvertCommand
{
    public static Command Create()
    {
        var path = new Argument<string>("PATH") { Description = "The adapter folder." };
        var form = new Option<string>("--to") { Description = "plain (alpha / r), rslora (alpha / √r), or same.", HelpName = "FORM", DefaultValueFactory = _ => "same" };
        form.AcceptOnlyFromAmong("plain", "rslora", "same");
        var dtype = new Option<string>("--dtype") { Description = "Type to store: float32, bfloat16 or float16.", HelpName = "TYPE", DefaultValueFactory = _ => "float32" };
        dtype.AcceptOnlyFromAmong("float32", "bfloat16", "float16");
        var model = new Option<string?>("--model") { Description = "The base; needed for adapters made with PiSSA or OLoRA.", HelpName = "MODEL" };
        var output = new Option<string>("--output") { Description = "Folder of the result; must not exist, or be empty.", Required = true, HelpName = "DIR" };
        var command = new Command("convert", "Write an adapter in another form where that is exact: rsLoRA and plain scaling, PiSSA or OLoRA to plain LoRA, another type.\nExample: lora convert runs/pissa --to plain --model base --output plain")
        {
            path, form, dtype, model, output,
        };
        command.SetAction(parsed =>
        {
            using AdapterFolder adapter = AdapterInputs.Adapter(parsed.GetValue(path)!);
            using ModelSource? source = parsed.GetValue(model) is { } name ? AdapterInputs.Model(name) : null;
            AdapterForm? wanted = parsed.GetValue(form) switch { "plain" => AdapterForm.Plain, "rslora" => AdapterForm.RsLora, _ => null };
            ScalarType type = parsed.GetValue(dtype) switch { "bfloat16" => ScalarType.BFloat16, "float16" => ScalarType.Float16, _ => ScalarType.Float32 };
            foreach (string note in AdapterConverter.Convert(adapter, parsed.GetValue(output)!, wanted, type, source))
            {
                Console.WriteLine($"note: {note}");
            }

            Console.WriteLine($"Written: {parsed.GetValue(output)}");
            return 0;
        });
        return command;
    }
}

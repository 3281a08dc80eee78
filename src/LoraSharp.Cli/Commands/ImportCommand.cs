using System.CommandLine;
using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora import</c>.</summary>
internal static class ImportCommand
{
    public static Command Create()
    {
        var input = new Argument<string>("F.gguf") { Description = "A model or an adapter." };
        var output = new Option<string>("--output") { Description = "Folder; must not exist, or be empty.", Required = true, HelpName = "DIR" };
        var dtype = new Option<string>("--dtype") { Description = "Type of a model's weights: stored (block types become float32, which loses nothing), float32, bfloat16 or float16.", HelpName = "TYPE", DefaultValueFactory = _ => "stored" };
        dtype.AcceptOnlyFromAmong("stored", "float32", "bfloat16", "float16");
        var model = new Option<string?>("--model") { Description = "Base model of an adapter whose file does not say how many heads it has.", HelpName = "MODEL" };
        var probe = new Option<int>("--probe-tokens") { Description = "Tokens on which the folder's logits are compared with the file's; 0 for no comparison.", HelpName = "N", DefaultValueFactory = _ => 64 };
        Option<string> device = CommonOptions.Device();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("import", "Make a Hugging Face folder of a GGUF file: of a model weights, configuration, tokenizer and chat template, of an adapter a PEFT folder.\nExample: lora import SmolLM2.gguf --output SmolLM2")
        {
            input, output, dtype, model, probe, device, json,
        };
        command.SetAction(parsed =>
        {
            CommonOptions.RequireDevice(parsed.GetValue(device)!);
            string path = parsed.GetValue(input)!;
            bool isAdapter;
            using (GgufShards file = GgufShards.Open(path))
            {
                isAdapter = file.Find("general.type")?.AsString() == "adapter";
            }

            ElementType? stored = parsed.GetValue(dtype) switch { "float32" => ElementType.F32, "bfloat16" => ElementType.BF16, "float16" => ElementType.F16, _ => null };
            return isAdapter
                ? Adapter(path, parsed.GetValue(output)!, parsed.GetValue(model), parsed.GetValue(json))
                : Model(path, parsed.GetValue(output)!, stored, new MergeProbeOptions { Tokens = parsed.GetValue(probe), Device = parsed.GetValue(device)! }, parsed.GetValue(json));
        });
        return command;
    }

    private static int Model(string path, string output, ElementType? type, MergeProbeOptions probe, bool json)
    {
        using ModelSource source = GgufCheckpoint.OpenModel(path);
        var checkpoint = (GgufCheckpoint)source.Tensors;
        GgufFolderWriter.WriteModel(checkpoint, output, type);
        using ModelSource folder = ModelSource.OpenFolder(output);
        TensorComparison tensors = GgufExportCheck.Tensors(checkpoint, folder.Tensors);
        TokenizerComparison? tokenizer = checkpoint.Tokenizer() is { } original ? GgufExportCheck.Tokenizers(original, TokenizerLoader.FromFolder(output)) : null;
        MergeProbeReport? logits = probe.Tokens > 0 ? MergeProbe.Measure(source, [], folder, probe) : null;
        if (json)
        {
            CommandJson.Write(new { Output = output, Kind = "model", Architecture = (string?)source.Config["model_type"], Tensors = tensors, Tokenizer = tokenizer, Logits = logits });
            return 0;
        }

        Console.WriteLine($"Written: {output} ({(string?)source.Config["model_type"]}, {tensors.Tensors} tensors{(tokenizer is null ? ", no tokenizer" : string.Empty)})");
        Console.WriteLine(tensors.Worst is null ? $"Tensors: {tensors.Tensors} compared, all equal" : $"Tensors: {tensors.Tensors} compared, largest relative error {PlainTable.Number(tensors.LargestRelativeError)} ({tensors.Worst})");
        if (tokenizer is not null)
        {
            Console.WriteLine($"Tokenizer: {tokenizer.Tokens} tokens of {tokenizer.Texts} sample texts, {tokenizer.Differing.Count} texts differ");
        }

        if (logits is not null)
        {
            Console.WriteLine($"Largest difference of logits, file against folder: {PlainTable.Number(logits.MaxLogitDifference)} (logits up to {PlainTable.Number(logits.MaxLogit)}, {logits.Positions} tokens)");
        }

        return 0;
    }

    private static int Adapter(string path, string output, string? model, bool json)
    {
        using ModelSource? source = model is null ? null : AdapterInputs.Model(model);
        using AdapterFolder adapter = GgufAdapter.Open(path, source?.Config);
        GgufFolderWriter.WriteAdapter(adapter, output, source?.Name);
        using AdapterFolder back = AdapterFolder.Open(output);
        TensorComparison tensors = GgufExportCheck.Tensors(adapter.Tensors, back.Tensors);
        if (json)
        {
            CommandJson.Write(new { Output = output, Kind = "adapter", adapter.Config.Rank, adapter.Config.Alpha, Tensors = tensors });
        }
        else
        {
            Console.WriteLine($"Written: {output} (adapter of rank {adapter.Config.Rank}, alpha {PlainTable.Number(adapter.Config.Alpha)}, {adapter.Config.TargetModules!.Names.Count} modules)");
            Console.WriteLine($"Tensors: {tensors.Tensors} compared, {(tensors.Worst is null ? "all equal" : $"largest relative error {PlainTable.Number(tensors.LargestRelativeError)}")}");
        }

        return 0;
    }
}

using System.CommandLine;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Quantization;
using LoraSharp.Recipes;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora merge</c>.</summary>
internal static class MergeCommand
{
    public static Command Create()
    {
        Option<string> model = CommonOptions.Model();
        Option<string[]> adapters = CommonOptions.Adapters();
        adapters.Required = true;
        var output = new Option<string>("--output") { Description = "Folder of the merged model; must not exist, or be empty.", Required = true, HelpName = "DIR" };
        var unmerge = new Option<bool>("--unmerge") { Description = "Take the adapter out of a merged model again." };
        var dtype = new Option<string>("--dtype") { Description = "Type to store: stored (each tensor's own), float32, bfloat16 or float16.", HelpName = "TYPE", DefaultValueFactory = _ => "stored" };
        dtype.AcceptOnlyFromAmong("stored", "float32", "bfloat16", "float16");
        var probe = new Option<int>("--probe-tokens") { Description = "Tokens on which adapter and merged model are compared; 0 for no comparison.", HelpName = "N", DefaultValueFactory = _ => 64 };
        Option<bool> strict = CommonOptions.Strict();
        Option<bool> anyBase = CommonOptions.AnyBase();
        Option<string?> modelType = CommonOptions.ModelType();
        Option<string> device = CommonOptions.Device();
        Option<string> quantize = CommonOptions.RoundBase();
        Option<bool> doubleQuant = CommonOptions.DoubleQuant();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("merge", "Merge adapters into their base: W' = W + (alpha/r)·B·A, as a plain checkpoint, and measure that it answers the same.\nExample: lora merge --model HuggingFaceTB/SmolLM2-135M-Instruct --adapter runs/my-adapter --output merged")
        {
            model, adapters, output, unmerge, dtype, probe, strict, anyBase, modelType, device, quantize, doubleQuant, json,
        };
        command.SetAction(parsed =>
        {
            CommonOptions.RequireDevice(parsed.GetValue(device)!);
            (string Path, double Weight)[] named = [.. parsed.GetValue(adapters)!.Select(AdapterInputs.Weighted)];
            using ModelSource source = AdapterInputs.RoundedModel(parsed.GetValue(model)!, parsed.GetValue(quantize)!, parsed.GetValue(doubleQuant), parsed.GetValue(modelType));
            var opened = new List<MergedAdapter>();
            try
            {
                opened.AddRange(named.Select(n => new MergedAdapter(AdapterInputs.Adapter(n.Path, source), n.Weight)));
                return Run(source, opened, new Settings(parsed.GetValue(output)!, parsed.GetValue(unmerge), parsed.GetValue(dtype)!, parsed.GetValue(probe), parsed.GetValue(strict), parsed.GetValue(anyBase), parsed.GetValue(json), parsed.GetValue(modelType), parsed.GetValue(device)!));
            }
            finally
            {
                opened.ForEach(a => a.Folder.Dispose());
            }
        });
        return command;
    }

    private sealed record Settings(string Output, bool Unmerge, string DType, int ProbeTokens, bool Strict, bool AnyBase, bool Json, string? ModelType, string Device);

    private static int Run(ModelSource source, IReadOnlyList<MergedAdapter> adapters, Settings settings)
    {
        ElementType? stored = settings.DType switch { "float32" => ElementType.F32, "bfloat16" => ElementType.BF16, "float16" => ElementType.F16, _ => null };
        MergeReport report = AdapterMerger.Merge(source, adapters, settings.Output, new MergeOptions { Unmerge = settings.Unmerge, StoredType = stored, AcceptOtherBases = settings.AnyBase });
        if (source.Tensors is FourBitRounding or BitsAndBytesSource { FourBitCount: > 0 })
        {
            string was = source.Tensors is FourBitRounding ? "rounded to 4 bits, as --quantize asks," : "in 4 bits";
            report = report with { Notes = [.. report.Notes, $"The base was {was} and is merged dequantised: the merged model is no longer 4-bit. To have it in 4 bits again, with the loss measured: lora quantize --adapter."] };
        }
        else if (source.Tensors is BitsAndBytesSource { Int8Count: > 0 })
        {
            report = report with { Notes = [.. report.Notes, "The base was in int8 and is merged dequantised: the merged model is no longer in 8 bits."] };
        }
        else if (source.Tensors is GgufCheckpoint file && file.Tensors.Keys.Any(name => file.FindStored(name) is not null))
        {
            report = report with { Notes = [.. report.Notes, "The base was in the blocks of its GGUF file and is merged dequantised: the merged model is dense. To have it in blocks again, with the loss measured: lora export --model ... --type q8_0."] };
        }

        else if (adapters.Any(a => IsQlora(a.Folder.Location)))
        {
            report = report with { Notes = [.. report.Notes, "The adapter was trained on a base in 4 bits and is merged into the base as it is stored, where its answers differ a little. To merge into the base that it was trained on: --quantize nf4 --double-quant, as its recipe.yaml has them."] };
        }

        MergeProbeReport? measured = null;
        if (settings.ProbeTokens > 0)
        {
            using ModelSource merged = ModelSource.OpenFolder(settings.Output);
            measured = MergeProbe.Measure(source, adapters, merged, new MergeProbeOptions { Tokens = settings.ProbeTokens, Unmerge = settings.Unmerge, ModelType = settings.ModelType, Device = settings.Device });
        }

        var warnings = new List<string>(measured?.Warnings ?? []);
        if (report.UpdateNorm == 0 || measured?.AdapterEffect == 0)
        {
            warnings.Add("The adapter changes nothing: the merged model answers as the base does. Was it saved before it was trained?");
        }

        if (settings.Json)
        {
            CommandJson.Write(new { settings.Output, report.Changed, report.Tensors, report.UpdateNorm, report.RoundingLoss, report.LostToRounding, report.StoredTypes, Probe = measured, report.Notes, Warnings = warnings });
        }
        else
        {
            Print(settings, report, measured);
            warnings.ForEach(w => Console.Error.WriteLine($"warning: {w}"));
        }

        return settings.Strict && warnings.Count > 0 ? throw new LoraSharpException(warnings[0] + " (--strict)") : 0;
    }

    // Training leaves the recipe beside the adapter; one that cannot be read says nothing.
    private static bool IsQlora(string folder)
    {
        string recipe = Path.Combine(folder, "recipe.yaml");
        try
        {
            return File.Exists(recipe) && RecipeReader.Read(recipe).Method == "qlora";
        }
        catch (LoraSharpException)
        {
            return false;
        }
    }

    private static void Print(Settings settings, MergeReport report, MergeProbeReport? measured)
    {
        Console.WriteLine($"{(settings.Unmerge ? "Unmerged" : "Merged")}: {report.Changed} of {report.Tensors} tensors changed, ‖ΔW‖ = {PlainTable.Number(report.UpdateNorm)}");
        if (report.RoundingLoss > 0)
        {
            Console.WriteLine($"Rounding to {string.Join(", ", report.StoredTypes)}: took {report.RoundingLoss:P2} of the update's norm; {report.LostToRounding:P1} of the changed weights kept their old value.");
        }

        if (measured is not null)
        {
            string direction = settings.Unmerge ? "model minus adapter" : "base with adapter";
            Console.WriteLine($"Largest difference of logits, {direction} against the result: {PlainTable.Number(measured.MaxLogitDifference)} (logits up to {PlainTable.Number(measured.MaxLogit)}, {measured.Positions} tokens, {measured.ComputeType})");
            Console.WriteLine($"Largest difference of the top token's probability: {PlainTable.Number(measured.MaxTopProbabilityDifference)}; top token changed at {measured.TopTokenChanges} of {measured.Positions} positions");
            Console.WriteLine($"What the adapter does to the base's logits: up to {PlainTable.Number(measured.AdapterEffect)}");
        }

        foreach (string note in report.Notes)
        {
            Console.WriteLine($"note: {note}");
        }

        Console.WriteLine($"Written: {settings.Output}");
    }
}

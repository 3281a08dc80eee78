using System.CommandLine;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Gguf.Tokenization;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora export</c>.</summary>
internal static class ExportCommand
{
    public static Command Create()
    {
        Option<string> model = CommonOptions.Model();
        Option<string[]> adapters = CommonOptions.Adapters();
        var output = new Option<string>("--output") { Description = "The .gguf file; an old one is replaced when the new one is complete.", Required = true, HelpName = "F.gguf" };
        string[] types = [.. GgufQuantizer.Types.Select(t => t.Name())];
        var type = new Option<string>("--type") { Description = $"Type of matrices: {string.Join(", ", types)}. Norms, biases and routers stay f32. Of an adapter: f32, f16 or bf16.", HelpName = "TYPE", DefaultValueFactory = _ => "f16" };
        type.AcceptOnlyFromAmong(types);
        var ends = new Option<string?>("--embedding-type") { Description = "Type of the embedding and the output, e.g. q8_0 or q6_k beside 4-bit matrices; default: as --type.", HelpName = "TYPE" };
        ends.AcceptOnlyFromAmong(types);
        var adapterOnly = new Option<bool>("--adapter-only") { Description = "Write the adapter (llama.cpp's --lora), not the merged model." };
        var probe = new Option<int>("--probe-tokens") { Description = "Tokens on which the file's logits are compared with the source's; 0 for no comparison.", HelpName = "N", DefaultValueFactory = _ => 64 };
        Option<bool> anyBase = CommonOptions.AnyBase();
        Option<string> quantize = CommonOptions.RoundBase();
        Option<bool> doubleQuant = CommonOptions.DoubleQuant();
        Option<string?> dtype = CommonOptions.ComparisonDType();
        Option<string> device = CommonOptions.Device();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("export", "Write a GGUF file for llama.cpp and LLamaSharp: a model, a model with adapters merged into it, or an adapter. The file is opened again and checked against the source.\nExample: lora export --model HuggingFaceTB/SmolLM2-135M-Instruct --adapter runs/my-adapter --output my.gguf --type q8_0")
        {
            model, adapters, output, type, ends, adapterOnly, probe, anyBase, quantize, doubleQuant, dtype, device, json,
        };
        command.SetAction(parsed =>
        {
            CommonOptions.RequireDevice(parsed.GetValue(device)!);
            var settings = new Settings(parsed.GetValue(output)!, ParseType(parsed.GetValue(type)!), parsed.GetValue(ends) is { } e ? ParseType(e) : null, new MergeProbeOptions { Tokens = parsed.GetValue(probe), DType = parsed.GetValue(dtype), Device = parsed.GetValue(device)! }, parsed.GetValue(anyBase), parsed.GetValue(json));
            string[] named = parsed.GetValue(adapters)!;
            using ModelSource source = AdapterInputs.RoundedModel(parsed.GetValue(model)!, parsed.GetValue(quantize)!, parsed.GetValue(doubleQuant), null);
            return parsed.GetValue(adapterOnly) ? Adapter(source, named, settings) : Model(source, named, settings);
        });
        return command;
    }

    private sealed record Settings(string Output, GgufTensorType Type, GgufTensorType? Ends, MergeProbeOptions Probe, bool AnyBase, bool Json);

    private static GgufTensorType ParseType(string name) => GgufQuantizer.Types.First(t => t.Name() == name);

    private static int Model(ModelSource source, string[] named, Settings settings)
    {
        var opened = new List<MergedAdapter>();
        string? merged = null;
        try
        {
            opened.AddRange(named.Select(AdapterInputs.Weighted).Select(n => new MergedAdapter(AdapterInputs.Adapter(n.Path, source), n.Weight)));
            if (opened.Count > 0)
            {
                // Merged in single precision, so that the weights are rounded once, to the file's type.
                merged = Path.GetFullPath(settings.Output) + ".merging";
                AdapterMerger.Merge(source, opened, merged, new MergeOptions { StoredType = ElementType.F32, AcceptOtherBases = settings.AnyBase });
            }

            using ModelSource? mergedSource = merged is null ? null : ModelSource.OpenFolder(merged);
            ModelSource weights = mergedSource ?? source;
            GgufTokenizerFiles files = GgufTokenizerFiles.Of(source);
            GgufExportResult result = GgufModelWriter.Write(
                settings.Output, weights.Tensors, weights.Config, files, new GgufExportOptions { Type = settings.Type, EndsType = settings.Ends, Name = NameOf(source) });
            using ModelSource exported = GgufCheckpoint.OpenModel(settings.Output);
            TensorComparison tensors = GgufExportCheck.Tensors(weights.Tensors, exported.Tensors, MayMiss);
            TokenizerComparison? tokenizer = Tokenizers(source, (GgufCheckpoint)exported.Tensors);
            MergeProbeReport? logits = settings.Probe.Tokens > 0 ? MergeProbe.Measure(source, opened, exported, settings.Probe) : null;
            Report(settings, result, tensors, tokenizer, logits);
            return 0;
        }
        finally
        {
            opened.ForEach(a => a.Folder.Dispose());
            if (merged is not null && Directory.Exists(merged))
            {
                Directory.Delete(merged, recursive: true);
            }
        }
    }

    private static int Adapter(ModelSource source, string[] named, Settings settings)
    {
        if (named.Length != 1)
        {
            throw new LoraSharpException($"--adapter-only writes one adapter, found {named.Length}. Combine several first (lora combine), or leave --adapter-only out to merge them.");
        }

        (string path, double weight) = AdapterInputs.Weighted(named[0]);
        if (weight != 1)
        {
            throw new LoraSharpException($"'{named[0]}': an adapter file has no weight; give the scale to llama.cpp (--lora-scaled), or merge.");
        }

        using AdapterFolder adapter = AdapterInputs.Adapter(path, source);
        GgufExportResult result = GgufAdapterWriter.Write(settings.Output, adapter, source.Config, settings.Type, Path.GetFileName(Path.TrimEndingDirectorySeparator(path)));
        using AdapterFolder back = GgufAdapter.Open(settings.Output, source.Config);
        TensorComparison tensors = GgufExportCheck.Tensors(adapter.Tensors, back.Tensors);
        AdapterComparison? logits = settings.Probe.Tokens > 0 ? AdapterComparison.Measure(source, adapter, back, settings.Probe) : null;
        if (settings.Json)
        {
            CommandJson.Write(new { settings.Output, Type = settings.Type.Name(), result.Bytes, Tensors = tensors, Logits = logits, result.Warnings });
            return 0;
        }

        PrintTensors(settings, result, tensors);
        if (logits is not null)
        {
            Console.WriteLine($"Largest difference of logits: {PlainTable.Number(logits.MaxLogitDifference)} ({logits.Positions} tokens; the adapter changes logits by up to {PlainTable.Number(logits.AdapterEffect)})");
        }

        return 0;
    }

    private static TokenizerComparison? Tokenizers(ModelSource source, GgufCheckpoint exported)
    {
        Tokenizer? original = source.Tensors is GgufCheckpoint checkpoint ? checkpoint.Tokenizer()
            : TokenizerLoader.IsIn(source.Location) ? TokenizerLoader.FromFolder(source.Location) : null;
        return original is not null && exported.Tokenizer() is { } made ? GgufExportCheck.Tokenizers(original, made) : null;
    }

    private static void Report(Settings settings, GgufExportResult result, TensorComparison tensors, TokenizerComparison? tokenizer, MergeProbeReport? logits)
    {
        List<string> warnings = [.. result.Warnings];
        if (tokenizer?.Differing.Count > 0)
        {
            warnings.Add($"the file's tokenizer makes other tokens of {tokenizer.Differing.Count} of {tokenizer.Texts} sample texts, the first being {System.Text.Json.JsonSerializer.Serialize(tokenizer.Differing[0])}.");
        }

        // In f32 nothing is rounded: what differs is arithmetic, and a file that computes something else is no copy.
        if (settings.Type == GgufTensorType.F32 && logits is not null && logits.MaxLogitDifference > 1e-3 * logits.MaxLogit)
        {
            warnings.Add($"the file's logits differ by {PlainTable.Number(logits.MaxLogitDifference)} although no weight was rounded: config.json says something that the file does not.");
        }

        if (settings.Json)
        {
            CommandJson.Write(new { settings.Output, Type = settings.Type.Name(), result.Bytes, Tensors = tensors, Tokenizer = tokenizer, Logits = logits, Warnings = warnings });
            return;
        }

        PrintTensors(settings, result with { Warnings = warnings }, tensors);
        Console.WriteLine(tokenizer is null ? "Tokenizer: none to compare" : $"Tokenizer: {tokenizer.Tokens} tokens of {tokenizer.Texts} sample texts, {tokenizer.Differing.Count} texts differ");
        if (logits is not null)
        {
            Console.WriteLine($"Largest difference of logits, source against file: {PlainTable.Number(logits.MaxLogitDifference)} (logits up to {PlainTable.Number(logits.MaxLogit)}, {logits.Positions} tokens, {logits.ComputeType})");
            Console.WriteLine($"Largest difference of the top token's probability: {PlainTable.Number(logits.MaxTopProbabilityDifference)}; top token changed at {logits.TopTokenChanges} of {logits.Positions} positions");
        }
    }

    private static void PrintTensors(Settings settings, GgufExportResult result, TensorComparison tensors)
    {
        foreach (string warning in result.Warnings)
        {
            Console.Error.WriteLine($"warning: {warning}");
        }

        Console.WriteLine($"Written: {settings.Output} ({result.Tensors} tensors, {result.Bytes / 1e6:F1} MB, {settings.Type.Name()})");
        Console.WriteLine(tensors.Worst is null
            ? $"Tensors: {tensors.Tensors} compared, all equal"
            : $"Tensors: {tensors.Tensors} compared, largest difference {PlainTable.Number(tensors.LargestDifference)}, largest relative error {PlainTable.Number(tensors.LargestRelativeError)} ({tensors.Worst})");
    }

    // What a file leaves out because it follows from the rest.
    private static bool MayMiss(string name) =>
        name == "lm_head.weight" || name.EndsWith("inv_freq", StringComparison.Ordinal) || name.EndsWith(".masked_bias", StringComparison.Ordinal)
        || name.EndsWith(".attn.bias", StringComparison.Ordinal) || name.EndsWith(".attention.bias", StringComparison.Ordinal);

    private static string NameOf(ModelSource source) => Path.GetFileNameWithoutExtension(Path.TrimEndingDirectorySeparator(source.Name)) is { Length: > 0 } name ? name : "model";
}

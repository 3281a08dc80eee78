using System.CommandLine;
using System.Text.Json.Nodes;
using LoraSharp.Adapters;
using LoraSharp.Adapters.Analysis;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora inspect</c>.</summary>
internal static class InspectCommand
{
    public static Command Create()
    {
        var path = new Argument<string>("PATH") { Description = "An adapter folder, a model folder or a .gguf model." };
        var spectrum = new Option<bool>("--spectrum") { Description = "Singular values of each update, effective rank, energy by rank; with --model how they lie in the base." };
        var against = new Option<string?>("--against") { Description = "Another adapter: how alike the directions are.", HelpName = "PATH" };
        var model = new Option<string?>("--model") { Description = "The base: for shares and the amplification factor.", HelpName = "MODEL" };
        var plot = new Option<string?>("--plot") { Description = "Draw the spectra into a PNG file (with --spectrum).", HelpName = "FILE" };
        var rank = new Option<int>("--rank") { Description = "For a model: rank for which the size of an adapter is told.", HelpName = "R", DefaultValueFactory = _ => 16 };
        Option<bool> probe = CommonOptions.Probe();
        probe.Description += " Needs --model.";
        Option<bool> strict = CommonOptions.Strict();
        Option<bool> anyBase = CommonOptions.AnyBase();
        Option<string> dtype = CommonOptions.DType();
        Option<string> device = CommonOptions.Device();
        Option<string> quantize = CommonOptions.Quantize();
        Option<bool> doubleQuant = CommonOptions.DoubleQuant();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("inspect", "Explain an adapter (targets, ranks, sizes, norms, spectrum, similarity) or a model.\nExample: lora inspect runs/my-adapter --spectrum --against runs/other")
        {
            path, spectrum, against, model, plot, rank, probe, strict, anyBase, dtype, device, quantize, doubleQuant, json,
        };
        command.SetAction(parsed =>
        {
            string location = parsed.GetValue(path)!;
            if (!AdapterFolder.IsAdapter(location) && (File.Exists(Path.Combine(location, "config.json")) || location.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase)))
            {
                using ModelSource inspected = AdapterInputs.Model(location);
                return Model(ModelInspector.Inspect(inspected, parsed.GetValue(rank)), parsed.GetValue(rank), parsed.GetValue(json));
            }

            using AdapterFolder adapter = AdapterInputs.Adapter(location);
            using AdapterFolder? other = parsed.GetValue(against) is { } second ? AdapterInputs.Adapter(second) : null;
            using ModelSource? source = parsed.GetValue(model) is { } name ? AdapterInputs.Model(name) : null;
            bool decompose = parsed.GetValue(spectrum) || parsed.GetValue(plot) is not null;
            AdapterReport report = AdapterInspector.Inspect(adapter, new InspectOptions { Spectrum = decompose, Against = other, Model = source });
            if (parsed.GetValue(plot) is { } file)
            {
                SpectrumPlot.Write(file, report);
            }

            AdapterProbe? measured = parsed.GetValue(probe) ? Probe(adapter, source, new EngineOptions { Model = source?.Location ?? string.Empty, AcceptOtherBases = parsed.GetValue(anyBase), DType = parsed.GetValue(dtype)!, Device = parsed.GetValue(device)!, Quantize = parsed.GetValue(quantize)!, DoubleQuantization = parsed.GetValue(doubleQuant) }) : null;
            if (measured is { MaxLogitDifference: 0 })
            {
                report = report with { Warnings = [.. report.Warnings, $"It changes no logit of {measured.Positions} positions."] };
            }

            Adapter(report, measured, parsed.GetValue(json));
            return parsed.GetValue(strict) && report.Warnings.Count > 0 ? throw new LoraSharpException($"{report.Warnings[0]} (--strict)") : 0;
        });
        return command;
    }

    private static AdapterProbe Probe(AdapterFolder adapter, ModelSource? model, EngineOptions options)
    {
        if (model is null)
        {
            throw new LoraSharpException("--probe runs the base with and without the adapter: name the base with --model.");
        }

        using LoadedModel loaded = EngineSetup.Load(options);
        LoraAdapter added = loaded.Adapters.Load(adapter);
        return AdapterProbe.Measure(loaded.Model, loaded.Adapters, AdapterSelection.ForAll([new(added)]));
    }

    private static void Adapter(AdapterReport report, AdapterProbe? probe, bool json)
    {
        if (json)
        {
            JsonObject all = CommandJson.ToObject(report);
            if (probe is not null)
            {
                all["probe"] = CommandJson.ToObject(probe);
            }

            CommandJson.Write(all);
            return;
        }

        Console.WriteLine($"{report.Location}: {report.Variant}, r = {report.Rank}, alpha = {PlainTable.Number(report.Alpha)}{(report.Dropout > 0 ? $", dropout {PlainTable.Number(report.Dropout)}" : string.Empty)}");
        Console.WriteLine($"base: {report.BaseModel ?? "not recorded"}");
        Console.WriteLine($"targets: {Short(report.Targets)}");
        string share = report.TrainableShare is { } part ? $" of {PlainTable.Count(report.BaseParameters!.Value)} ({part:P3})" : string.Empty;
        Console.WriteLine($"trainable parameters: {PlainTable.Count(report.TrainableParameters)} ({report.TrainableParameters}){share}, {PlainTable.Count(report.Bytes)} bytes");
        if (report.Modules.Count > 0)
        {
            Console.WriteLine($"compression: the {report.Modules.Count} adapted matrices have {report.Compression:0.#} times the parameters of their factors");
        }

        if (report.SavedTensors.Count > 0)
        {
            Console.WriteLine($"saved in full: {Short(string.Join(", ", report.SavedTensors))}");
        }

        Console.WriteLine();
        Table(report);
        if (report.HardlyMoved.Count > 0)
        {
            Console.WriteLine($"hardly moved: {Short(string.Join(", ", report.HardlyMoved))}");
        }

        if (probe is not null)
        {
            Console.WriteLine($"probe: the adapter {probe}");
        }

        report.Warnings.ToList().ForEach(w => Console.Error.WriteLine($"warning: {w}"));
    }

    private static void Table(AdapterReport report)
    {
        bool spectrum = report.Modules.Any(m => m.Spectrum is not null);
        bool based = report.Modules.Any(m => m.RelativeUpdate is not null);
        bool compared = report.Modules.Any(m => m.Similarity is not null);
        List<string> heading = ["module", "r", "scaling", "shape", "parameters", "smaller", "‖A‖", "‖B‖", "‖ΔW‖"];
        heading.AddRange(based ? ["‖ΔW‖/‖W‖"] : []);
        heading.AddRange(spectrum ? ["σ₁", "effective rank", "energy σ₁"] : []);
        heading.AddRange(spectrum && based ? ["amplification", "in top of W"] : []);
        heading.AddRange(compared ? ["φ in", "φ out", "cosine"] : []);
        PlainTable.Write(Console.Out, heading, report.Modules.Select(m =>
        {
            List<string> row = [m.Module, $"{m.Rank}", PlainTable.Number(m.Scaling), $"{m.OutFeatures}×{m.InFeatures}", PlainTable.Count(m.Parameters), $"{PlainTable.Number(m.Compression)}×", PlainTable.Number(m.NormA), PlainTable.Number(m.NormB), PlainTable.Number(m.NormUpdate)];
            row.AddRange(based ? [m.RelativeUpdate is { } relative ? $"{relative:P2}" : "-"] : []);
            row.AddRange(spectrum ? [Cell(m.Spectrum?.SingularValues[0]), Cell(m.Spectrum?.EffectiveRank), m.Spectrum is { } s ? $"{s.EnergyByRank[0]:P0}" : "-"] : []);
            row.AddRange(spectrum && based ? [Cell(m.Spectrum?.AmplificationFactor), Cell(m.Spectrum?.InTopOfBase)] : []);
            row.AddRange(compared ? [Cell(m.Similarity?.Input), Cell(m.Similarity?.Output), Cell(m.Similarity?.Cosine)] : []);
            return (IReadOnlyList<string>)row;
        }));
    }

    private static int Model(ModelReport report, int rank, bool json)
    {
        if (json)
        {
            CommandJson.Write(report);
            return 0;
        }

        Console.WriteLine($"{report.Location}: {report.Type}, {PlainTable.Count(report.Parameters)} parameters ({report.Parameters}), {PlainTable.Count(report.Bytes)} bytes as {string.Join(", ", report.Types.Select(t => t.Key))}");
        Console.WriteLine($"an adapter of rank {rank} on all linear layers: {PlainTable.Count(report.LoraParameters)} parameters ({(double)report.LoraParameters / report.Parameters:P2})");
        Console.WriteLine();
        PlainTable.Write(Console.Out, ["tensors", "number", "shape", "parameters", $"LoRA r={rank}"], report.Kinds.Select(k => (IReadOnlyList<string>)[k.Name, $"{k.Count}", string.Join('×', k.Shape), PlainTable.Count(k.Parameters), k.LoraParameters > 0 ? PlainTable.Count(k.LoraParameters) : "-"]));
        return 0;
    }

    private static string Cell(double? value) => value is { } number ? PlainTable.Number(number) : "-";

    private static string Short(string text) => text.Length <= 200 ? text : text[..197] + "...";
}

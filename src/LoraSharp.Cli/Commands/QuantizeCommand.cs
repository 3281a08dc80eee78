using System.CommandLine;
using System.Globalization;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Quantization;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora quantize</c>: a checkpoint in 4 bits, as bitsandbytes and transformers read it.</summary>
internal static class QuantizeCommand
{
    internal static Command Create()
    {
        Option<string> model = CommonOptions.Model();
        Option<string[]> adapters = CommonOptions.Adapters();
        adapters.Description = "Merge these adapters first (PATH or PATH=WEIGHT); what quantising then costs is measured on logits. The base may be in 4 bits itself.";
        Option<string?> modelType = CommonOptions.ModelType();
        Option<bool> anyBase = CommonOptions.AnyBase();
        Option<string?> dtype = CommonOptions.ComparisonDType();
        dtype.Description += " With --adapter.";
        Option<string> device = CommonOptions.Device();
        device.Description += " Where logits are compared, with --adapter; quantising is the CPU's work.";
        Option<bool> json = CommonOptions.Json();
        var output = new Option<string>("--output") { Description = "Folder to write.", Required = true, HelpName = "DIR" };
        var type = new Option<string>("--type", "--quantize") { Description = "nf4 or fp4.", HelpName = "TYPE", DefaultValueFactory = _ => "nf4" };
        type.AcceptOnlyFromAmong("nf4", "fp4");
        var twice = new Option<bool>("--double-quant") { Description = "Quantise the scales too: 0.516 instead of 0.563 bytes a weight." };
        var block = new Option<int>("--block-size") { Description = "Weights that share one scale: 32, 64, 128 ... 4096.", HelpName = "N", DefaultValueFactory = _ => 64 };
        var skip = new Option<string[]>("--skip") { Description = "Layers to leave alone, by path or part of one, e.g. down_proj or layers.0. The output head always is.", HelpName = "NAME", AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [] };
        var init = new Option<string?>("--init") { Description = $"loftq or qpissa: also makes an adapter in DIR/{CheckpointQuantizer.AdapterFolderName} to start training from (init_from), and reports how much nearer it starts.", HelpName = "KIND" };
        init.AcceptOnlyFromAmong("loftq", "qpissa");
        var rank = new Option<int>("--rank") { Description = "Rank of that adapter.", HelpName = "R", DefaultValueFactory = _ => 16 };
        var alpha = new Option<double>("--alpha") { Description = "Alpha of that adapter.", HelpName = "A", DefaultValueFactory = _ => 32 };
        var iterations = new Option<int>("--iterations") { Description = "Rounds of quantising and decomposing.", HelpName = "N", DefaultValueFactory = _ => 5 };
        var command = new Command("quantize", "Write the model as a 4-bit checkpoint that bitsandbytes and transformers open.\nExample: lora quantize --model ./llama --output ./llama-nf4 --double-quant")
        {
            model, adapters, output, type, twice, block, skip, init, rank, alpha, iterations, modelType, dtype, device, anyBase, json,
        };
        command.SetAction(result =>
        {
            CommonOptions.RequireDevice(result.GetValue(device)!);
            var options = new QuantizationOptions
            {
                Type = result.GetValue(type) == "fp4" ? FourBitType.Fp4 : FourBitType.Nf4,
                BlockSize = result.GetValue(block),
                DoubleQuantization = result.GetValue(twice),
                SkipModules = result.GetValue(skip)!,
            };
            LowRankStartOptions? start = result.GetValue(init) is not { } kind ? null : new LowRankStartOptions(
                kind == "loftq" ? LowRankStartKind.LoftQ : LowRankStartKind.QPissa,
                new LoraOptions { Rank = result.GetValue(rank), Alpha = result.GetValue(alpha) },
                Math.Max(1, result.GetValue(iterations)));
            Run(result.GetValue(model)!, result.GetValue(adapters)!, result.GetValue(output)!, options, start, new MergeProbeOptions { ModelType = result.GetValue(modelType), DType = result.GetValue(dtype), Device = result.GetValue(device)! }, result.GetValue(anyBase), result.GetValue(json));
        });
        return command;
    }

    private static void Run(string model, IReadOnlyList<string> adapters, string output, QuantizationOptions options, LowRankStartOptions? start, MergeProbeOptions comparison, bool anyBase, bool json)
    {
        if (File.Exists(output))
        {
            throw new LoraSharpException($"{output}: is a file. Expected a folder, or a name that is free.");
        }

        bool live = !json && !Console.IsErrorRedirected;
        void Progress(int done, int all)
        {
            if (live)
            {
                Console.Error.Write($"\rquantising {done}/{all}{(done == all ? "\n" : string.Empty)}");
            }
        }

        if (adapters.Count == 0)
        {
            using ModelSource source = AdapterInputs.StoredModel(model);
            Print(CheckpointQuantizer.Quantize(source, output, options, start, comparison.ModelType, Progress), null);
            return;
        }

        MergedQuantization merged = QuantizedMerge.Run(model, adapters, output, options, start, comparison, anyBase, Progress);
        Print(merged.Report, merged.Probe);

        void Print(QuantizationReport report, MergeProbeReport? probe)
        {
            if (json)
            {
                CommandJson.Write(new { output, report, probe });
                return;
            }

            Console.WriteLine(Describe(report, output, options, start));
            if (probe is not null)
            {
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"merged and quantised again, against base with adapter: logits differ by up to {probe.MaxLogitDifference:G3} (largest logit {probe.MaxLogit:G3}; the adapter itself changes them by up to {probe.AdapterEffect:G3}); top token changed at {probe.TopTokenChanges} of {probe.Positions} positions"));
            }
        }
    }

    private static string Describe(QuantizationReport report, string output, QuantizationOptions options, LowRankStartOptions? start)
    {
        CultureInfo culture = CultureInfo.InvariantCulture;
        string worst = string.Create(culture, $"; largest in {report.WorstLayer}: {report.WorstError:P2}");
        string name = FourBitCodebook.Of(options.Type).Name;
        List<string> lines =
        [
            string.Create(culture, $"{output}: {report.Matrices} matrices, {report.Weights:N0} weights in {name}, blocks of {options.BlockSize}{(options.DoubleQuantization ? ", scales quantised too" : string.Empty)}"),
            string.Create(culture, $"bytes: {report.DenseBytes:N0} -> {report.Bytes:N0} ({report.Bytes / (double)report.Weights:F4} a weight); left alone: {report.OtherBytes:N0}"),
            string.Create(culture, $"relative error of the weights: {report.PlainError:P2}{(start is null ? worst : string.Empty)}"),
        ];
        if (start is not null)
        {
            lines.Add(string.Create(culture, $"with the {start.Kind} adapter (rank {start.Adapter.Rank}): {report.Error:P2}, {1 - (report.Error / report.PlainError):P1} less{worst}; adapter: {report.AdapterFolder}"));
        }

        return string.Join(Environment.NewLine, lines);
    }
}

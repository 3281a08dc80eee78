using LoraSharp.Adapters.Merging;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Quantization;

namespace LoraSharp.Cli.Commands;

/// <summary>What merging and quantising again came to.</summary>
/// <param name="Report">Of quantising.</param>
/// <param name="Probe">Of base and adapter against the result.</param>
internal sealed record MergedQuantization(QuantizationReport Report, MergeProbeReport Probe);

/// <summary>Merges adapters into the dense (or dequantised) base, quantises the result, and measures what is left of it.</summary>
internal static class QuantizedMerge
{
    public static MergedQuantization Run(string model, IReadOnlyList<string> adapters, string output, QuantizationOptions options, LowRankStartOptions? start, MergeProbeOptions probe, bool anyBase, Action<int, int> progress)
    {
        // The merged checkpoint lies beside the output for as long as it is needed.
        string dense = Path.GetFullPath(output).TrimEnd(Path.DirectorySeparatorChar) + ".merged";
        using ModelSource source = AdapterInputs.Model(model);
        var opened = new List<MergedAdapter>();
        try
        {
            opened.AddRange(adapters.Select(AdapterInputs.Weighted).Select(a => new MergedAdapter(AdapterInputs.Adapter(a.Path, source), a.Weight)));
            AdapterMerger.Merge(source, opened, dense, new MergeOptions { AcceptOtherBases = anyBase });
            QuantizationReport report;
            using (ModelSource merged = ModelSource.OpenFolder(dense))
            {
                report = CheckpointQuantizer.Quantize(merged, output, options, start, probe.ModelType, progress);
            }

            using ModelSource result = BitsAndBytesSource.Unwrap(ModelSource.OpenFolder(output));
            return new MergedQuantization(report, MergeProbe.Measure(source, opened, result, probe));
        }
        finally
        {
            opened.ForEach(a => a.Folder.Dispose());
            if (Directory.Exists(dense))
            {
                Directory.Delete(dense, true);
            }
        }
    }
}

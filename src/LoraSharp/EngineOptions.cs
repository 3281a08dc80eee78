using LoraSharp.Formats;
using LoraSharp.Quantization;

namespace LoraSharp;

/// <summary>Which model, with what on top, computed how: what every command that loads a model asks for.</summary>
public sealed record EngineOptions
{
    /// <summary>A Hugging Face folder, a .gguf file, or a hub name.</summary>
    public required string Model { get; init; }

    /// <summary>Adapters and their weights; all of them apply.</summary>
    public IReadOnlyList<(string Path, double Weight)> Adapters { get; init; } = [];

    /// <summary>Load adapters that were made on another base with a warning instead of an error; default false.</summary>
    public bool AcceptOtherBases { get; init; }

    /// <summary>Round loaded adapters' factors to bfloat16 (<see cref="Adapters.AdapterSet.RoundFactors"/>); default false.</summary>
    public bool RoundFactors { get; init; }

    /// <summary>float32 or bfloat16.</summary>
    public string DType { get; init; } = "float32";

    /// <summary>cpu, cuda, cuda:n, or auto for the first GPU there is.</summary>
    public string Device { get; init; } = "auto";

    /// <summary>
    /// nf4 or fp4 quantise the base to 4 bits while it loads (blocks of 64), q8 to 8 (GGUF's Q8_0, for
    /// faster decoding); none leaves it as it is stored, a GGUF file in its blocks.
    /// </summary>
    public string Quantize { get; init; } = "none";

    /// <summary>With nf4 or fp4: quantise the scales too, as QLoRA does (Dettmers et al. 2023, section 3); default false, as bitsandbytes has it.</summary>
    public bool DoubleQuantization { get; init; }

    /// <summary>How to quantise, instead of what <see cref="Quantize"/> stands for; null leaves it to that.</summary>
    public QuantizationOptions? Quantization { get; init; }

    /// <summary>Full fine-tuning: every weight gets a gradient, and no adapter can be put on.</summary>
    public bool TrainBase { get; init; }

    /// <summary>Treat the model as this family, whatever <c>config.json</c> says; null for what it says.</summary>
    public string? ModelType { get; init; }

    /// <summary>Fails with every value that is out of range.</summary>
    public EngineOptions Validate()
    {
        List<string> faults = [];
        if (DType is not ("float32" or "bfloat16"))
        {
            faults.Add($"dtype '{DType}': expected float32 or bfloat16");
        }

        if (Quantize is not ("nf4" or "fp4" or "q8" or "none"))
        {
            faults.Add($"quantize '{Quantize}': expected nf4, fp4, q8 or none");
        }

        if (DoubleQuantization && Quantization is null && Quantize is "q8" or "none")
        {
            faults.Add($"double quantisation: says how nf4 and fp4 keep their scales, found quantize '{Quantize}'. A checkpoint in 4 bits says itself how it keeps them");
        }

        if (Device is not ("cpu" or "cuda" or "auto") && !(Device.StartsWith("cuda:", StringComparison.Ordinal) && int.TryParse(Device.AsSpan(5), out int index) && index >= 0))
        {
            faults.Add($"device '{Device}': expected cpu, cuda, cuda:N or auto");
        }

        return faults.Count == 0 ? this : throw new LoraSharpException($"Options out of range:\n  {string.Join("\n  ", faults)}");
    }
}

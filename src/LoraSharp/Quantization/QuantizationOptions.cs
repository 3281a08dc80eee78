using LoraSharp.Formats;

namespace LoraSharp.Quantization;

/// <summary>How a base model is quantised.</summary>
public sealed record QuantizationOptions
{
    /// <summary>NF4, or FP4.</summary>
    public FourBitType Type { get; init; } = FourBitType.Nf4;

    /// <summary>Weights that share one scale: 32, 64, 128 … 4096.</summary>
    public int BlockSize { get; init; } = 64;

    /// <summary>Quantise the scales too (QLoRA, section 3): 0.516 instead of 0.5625 bytes a weight at block size 64.</summary>
    public bool DoubleQuantization { get; init; } = true;

    /// <summary>
    /// Layers that keep their type, besides the output head and routers: full paths (<c>model.layers.0.mlp.down_proj</c>)
    /// or any run of whole path elements (<c>down_proj</c>, <c>layers.0</c>), as <c>llm_int8_skip_modules</c> has it.
    /// </summary>
    public IReadOnlyList<string> SkipModules { get; init; } = [];

    /// <summary>What <c>--quantize</c> and <c>--double-quant</c> stand for: blocks of 64; null for names that are not of a 4-bit type.</summary>
    /// <param name="name">nf4 or fp4.</param>
    /// <param name="doubleQuantization">Quantise the scales too.</param>
    public static QuantizationOptions? Named(string name, bool doubleQuantization) => name switch
    {
        "nf4" => new QuantizationOptions { DoubleQuantization = doubleQuantization },
        "fp4" => new QuantizationOptions { Type = FourBitType.Fp4, DoubleQuantization = doubleQuantization },
        _ => null,
    };

    /// <summary>Whether a layer of this path is to be left alone.</summary>
    public bool Skips(string layer) => SkipModules.Any(skip => $".{layer}.".Contains($".{skip}.", StringComparison.Ordinal));

    /// <summary>Lists every fault.</summary>
    /// <exception cref="LoraSharpException">A value is out of range.</exception>
    public void Validate()
    {
        List<string> faults = [];
        if (!FourBitCodebook.IsBlockSize(BlockSize))
        {
            faults.Add($"block size {BlockSize}: expected a power of two from {FourBitCodebook.SmallestBlock} to {FourBitCodebook.LargestBlock}");
        }

        if (!Enum.IsDefined(Type))
        {
            faults.Add($"type {Type}: expected nf4 or fp4");
        }

        if (SkipModules.Any(string.IsNullOrWhiteSpace))
        {
            faults.Add("skip_modules: an entry is empty");
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException($"The quantisation options are not valid: {string.Join("; ", faults)}.");
        }
    }
}

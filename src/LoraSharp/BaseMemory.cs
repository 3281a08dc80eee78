using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Quantization;

namespace LoraSharp;

/// <summary>Bytes of a base model as it is held, from the checkpoint's headers alone.</summary>
internal static class BaseMemory
{
    /// <summary>Sums up all tensors, and the one dequantised matrix that the layers in few bits share.</summary>
    /// <param name="source">The model.</param>
    /// <param name="matrices">Its linear layers' weights.</param>
    /// <param name="quantization">How they are quantised while loading; null for not.</param>
    /// <param name="compute">Bytes of the compute type.</param>
    /// <param name="trainsBase">Whether everything is dense because it trains.</param>
    /// <param name="onCpu">Whether it is on a CPU, where GGUF's blocks stay as they are.</param>
    public static long Bytes(ModelSource source, IReadOnlyCollection<TensorInfo> matrices, QuantizationOptions? quantization, int compute, bool trainsBase = false, bool onCpu = true)
    {
        if (trainsBase)
        {
            return compute * source.Tensors.Tensors.Values.Sum(t => t.Count);
        }

        var linear = matrices.Select(m => m.Name).ToHashSet(StringComparer.Ordinal);
        long sum = 0, largest = 0;
        foreach (TensorInfo tensor in source.Tensors.Tensors.Values)
        {
            bool isLinear = linear.Contains(tensor.Name);
            long? few = FewBits(source.Tensors, tensor, isLinear ? quantization : null, onCpu);
            sum += few ?? (compute * tensor.Count);
            largest = few is not null && isLinear ? Math.Max(largest, tensor.Count) : largest;
        }

        return sum + (compute * largest);
    }

    // As the factories decide: what is in 4 bits stays so, then what is to be quantised is, then GGUF's blocks stay.
    private static long? FewBits(ITensorSource source, TensorInfo tensor, QuantizationOptions? quantization, bool onCpu)
    {
        if (source is BitsAndBytesSource stored && stored.FindFourBit(tensor.Name) is { } matrix)
        {
            return MemoryEstimate.FourBitBytes(tensor.Count, new QuantizationOptions { BlockSize = matrix.BlockSize, DoubleQuantization = matrix.NestedOffset is not null });
        }

        if (quantization is not null && !quantization.Skips(tensor.Name[..^".weight".Length]))
        {
            return MemoryEstimate.FourBitBytes(tensor.Count, quantization);
        }

        return onCpu && source is GgufCheckpoint file && file.FindStored(tensor.Name) is { } blocks ? blocks.Rows * blocks.RowBytes : null;
    }
}

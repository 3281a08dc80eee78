using static TorchSharp.torch;

namespace LoraSharp.Serving.Cuda;

/// <summary>A frozen matrix of the decoder: dense or in 4 bits, one of the two.</summary>
/// <param name="Dense">[f, k] bf16.</param>
/// <param name="FourBit">The same in 4 bits.</param>
internal readonly record struct DecoderMatrix(Tensor? Dense, FourBitMatrix? FourBit)
{
    /// <summary>A dense one.</summary>
    public static implicit operator DecoderMatrix(Tensor dense) => new(dense, null);

    /// <summary>One in 4 bits.</summary>
    public static implicit operator DecoderMatrix(FourBitMatrix matrix) => new(null, matrix);

    /// <summary>The values [f, k] in float32, for tests; a new tensor.</summary>
    public Tensor Values()
    {
        if (FourBit is null)
        {
            return Dense!.to(ScalarType.Float32);
        }

        using Tensor half = FourBit.Dequantize();
        return half.to(ScalarType.Float32);
    }
}

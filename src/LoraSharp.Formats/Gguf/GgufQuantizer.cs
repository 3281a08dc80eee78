using System.Buffers.Binary;
using System.Runtime.InteropServices;
using LoraSharp.Formats.Gguf.Blocks;

namespace LoraSharp.Formats.Gguf;

/// <summary>
/// Encodes single precision as a <see cref="GgufTensorType"/>. F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 equal the
/// <c>gguf</c> Python package byte for byte; Q4_K and Q6_K, which it cannot write, are searched for as llama.cpp does.
/// </summary>
public static class GgufQuantizer
{
    /// <summary>The types that can be written.</summary>
    public static IReadOnlyList<GgufTensorType> Types { get; } =
    [
        GgufTensorType.F32, GgufTensorType.F16, GgufTensorType.BF16, GgufTensorType.Q8_0, GgufTensorType.Q4_0, GgufTensorType.Q4_1,
        GgufTensorType.Q5_0, GgufTensorType.Q5_1, GgufTensorType.Q4_K, GgufTensorType.Q6_K,
    ];

    /// <summary>Encodes whole blocks, long runs on all cores.</summary>
    /// <param name="type">One of <see cref="Types"/>.</param>
    /// <param name="weights">A multiple of the block size.</param>
    /// <param name="output">Room for exactly the bytes they take.</param>
    /// <exception cref="ArgumentException">The lengths do not agree, or the type cannot be written.</exception>
    public static unsafe void Quantize(GgufTensorType type, ReadOnlySpan<float> weights, Span<byte> output)
    {
        if (type.ByteCount(weights.Length) != output.Length)
        {
            throw new ArgumentException($"{weights.Length} weights of {type} take {type.ByteCount(weights.Length)} bytes, found {output.Length}.");
        }

        const int Piece = 1 << 14;
        int block = type.BlockWeights();
        int bytes = type.BlockBytes();
        int pieces = (weights.Length + Piece - 1) / Piece;
        if (pieces <= 1)
        {
            Encode(type, weights, output);
            return;
        }

        fixed (float* source = weights)
        fixed (byte* target = output)
        {
            // Pointers, since a span cannot go into a closure; both are pinned until the loop is done.
            nint from = (nint)source;
            nint to = (nint)target;
            int length = weights.Length;
            Parallel.For(0, pieces, i =>
            {
                int begin = i * Piece;
                int count = Math.Min(Piece, length - begin);
                Encode(type, new ReadOnlySpan<float>((float*)from + begin, count), new Span<byte>((byte*)to + ((long)begin / block * bytes), count / block * bytes));
            });
        }
    }

    private static void Encode(GgufTensorType type, ReadOnlySpan<float> weights, Span<byte> output)
    {
        switch (type)
        {
            case GgufTensorType.F32:
                MemoryMarshal.AsBytes(weights).CopyTo(output);
                break;
            case GgufTensorType.F16:
                for (int i = 0; i < weights.Length; i++)
                {
                    BinaryPrimitives.WriteHalfLittleEndian(output[(2 * i)..], (Half)weights[i]);
                }

                break;
            case GgufTensorType.BF16:
                for (int i = 0; i < weights.Length; i++)
                {
                    BinaryPrimitives.WriteUInt16LittleEndian(output[(2 * i)..], ToBFloat16(weights[i]));
                }

                break;
            default:
                BlockEncoder encoder = Encoder(type);
                for (; weights.Length > 0; weights = weights[type.BlockWeights()..], output = output[type.BlockBytes()..])
                {
                    encoder(weights[..type.BlockWeights()], output[..type.BlockBytes()]);
                }

                break;
        }
    }

    private delegate void BlockEncoder(ReadOnlySpan<float> weights, Span<byte> block);

    private static BlockEncoder Encoder(GgufTensorType type) => type switch
    {
        GgufTensorType.Q8_0 => LegacyQuantizers.Q8_0,
        GgufTensorType.Q4_0 => LegacyQuantizers.Q4_0,
        GgufTensorType.Q4_1 => LegacyQuantizers.Q4_1,
        GgufTensorType.Q5_0 => LegacyQuantizers.Q5_0,
        GgufTensorType.Q5_1 => LegacyQuantizers.Q5_1,
        GgufTensorType.Q4_K => KQuantizers.Q4_K,
        GgufTensorType.Q6_K => KQuantizers.Q6_K,
        _ => throw new ArgumentException($"{type} cannot be written; {string.Join(", ", Types)} can."),
    };

    private static ushort ToBFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        // A NaN keeps its sign and becomes quiet: rounding could carry it into infinity.
        return float.IsNaN(value) ? (ushort)((bits >> 16) | 64) : (ushort)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
}

namespace LoraSharp.Formats.Gguf;

/// <summary>Tensor types of GGUF with the numbers that stand in files (ggml's <c>ggml_type</c>).</summary>
public enum GgufTensorType
{
    /// <summary>IEEE single precision.</summary>
    F32 = 0,

    /// <summary>IEEE half precision.</summary>
    F16 = 1,

    /// <summary>4 bits, a scale for 32 weights: q·d, q in −8…7.</summary>
    Q4_0 = 2,

    /// <summary>4 bits, a scale and a minimum for 32 weights: q·d + m.</summary>
    Q4_1 = 3,

    /// <summary>5 bits, a scale for 32 weights.</summary>
    Q5_0 = 6,

    /// <summary>5 bits, a scale and a minimum for 32 weights.</summary>
    Q5_1 = 7,

    /// <summary>8 bits, a scale for 32 weights.</summary>
    Q8_0 = 8,

    /// <summary>2 bits in super-blocks of 256 with 4-bit scales and minima.</summary>
    Q2_K = 10,

    /// <summary>3 bits in super-blocks of 256 with 6-bit scales.</summary>
    Q3_K = 11,

    /// <summary>4 bits in super-blocks of 256 with 6-bit scales and minima.</summary>
    Q4_K = 12,

    /// <summary>5 bits in super-blocks of 256 with 6-bit scales and minima.</summary>
    Q5_K = 13,

    /// <summary>6 bits in super-blocks of 256 with 8-bit scales.</summary>
    Q6_K = 14,

    /// <summary>4 bits into a table of 16 uneven values, a scale for 32 weights.</summary>
    IQ4_NL = 20,

    /// <summary>As <see cref="IQ4_NL"/>, in super-blocks of 256 with 6-bit scales.</summary>
    IQ4_XS = 23,

    /// <summary>Signed 8-bit integers.</summary>
    I8 = 24,

    /// <summary>Signed 16-bit integers.</summary>
    I16 = 25,

    /// <summary>Signed 32-bit integers.</summary>
    I32 = 26,

    /// <summary>Signed 64-bit integers.</summary>
    I64 = 27,

    /// <summary>IEEE double precision.</summary>
    F64 = 28,

    /// <summary>bfloat16.</summary>
    BF16 = 30,

    /// <summary>−1, 0, 1 in base 3 (1.69 bits), a scale for 256 weights.</summary>
    TQ1_0 = 34,

    /// <summary>−1, 0, 1 in 2 bits, a scale for 256 weights.</summary>
    TQ2_0 = 35,

    /// <summary>OCP microscaling: 4-bit floats (e2m1), a power of two for 32 weights.</summary>
    MXFP4 = 39,
}

/// <summary>Block sizes of <see cref="GgufTensorType"/>.</summary>
public static class GgufTensorTypes
{
    /// <summary>Weights of one super-block of the K types (ggml's QK_K).</summary>
    public const int SuperBlock = 256;

    /// <summary>Weights and bytes of one block; null for a number that is no type this library reads.</summary>
    public static (int Weights, int Bytes)? Block(uint type) => (GgufTensorType)type switch
    {
        GgufTensorType.F32 or GgufTensorType.I32 => (1, 4),
        GgufTensorType.F16 or GgufTensorType.BF16 or GgufTensorType.I16 => (1, 2),
        GgufTensorType.I8 => (1, 1),
        GgufTensorType.I64 or GgufTensorType.F64 => (1, 8),
        GgufTensorType.Q4_0 or GgufTensorType.IQ4_NL => (32, 18),
        GgufTensorType.Q4_1 => (32, 20),
        GgufTensorType.Q5_0 => (32, 22),
        GgufTensorType.Q5_1 => (32, 24),
        GgufTensorType.Q8_0 => (32, 34),
        GgufTensorType.MXFP4 => (32, 17),
        GgufTensorType.Q2_K => (256, 84),
        GgufTensorType.Q3_K => (256, 110),
        GgufTensorType.Q4_K => (256, 144),
        GgufTensorType.Q5_K => (256, 176),
        GgufTensorType.Q6_K => (256, 210),
        GgufTensorType.IQ4_XS => (256, 136),
        GgufTensorType.TQ1_0 => (256, 54),
        GgufTensorType.TQ2_0 => (256, 66),
        _ => null,
    };

    /// <summary>Weights of one block: the innermost size of a tensor must be a multiple of it.</summary>
    public static int BlockWeights(this GgufTensorType type) => (Block((uint)type) ?? throw Unknown(type)).Weights;

    /// <summary>Bytes of one block.</summary>
    public static int BlockBytes(this GgufTensorType type) => (Block((uint)type) ?? throw Unknown(type)).Bytes;

    /// <summary>Bytes of a number of weights that fills whole blocks.</summary>
    public static long ByteCount(this GgufTensorType type, long weights)
    {
        (int size, int bytes) = Block((uint)type) ?? throw Unknown(type);
        return weights % size == 0
            ? checked(weights / size * bytes)
            : throw new LoraSharpException($"{weights} weights do not fill blocks of {size} as {type} needs.");
    }

    /// <summary>The plain type with the same bytes; null for block types.</summary>
    public static ElementType? Plain(this GgufTensorType type) => type switch
    {
        GgufTensorType.F32 => ElementType.F32,
        GgufTensorType.F16 => ElementType.F16,
        GgufTensorType.BF16 => ElementType.BF16,
        GgufTensorType.F64 => ElementType.F64,
        GgufTensorType.I8 => ElementType.I8,
        GgufTensorType.I16 => ElementType.I16,
        GgufTensorType.I32 => ElementType.I32,
        GgufTensorType.I64 => ElementType.I64,
        _ => null,
    };

    /// <summary>The type's name in lower case, as llama.cpp's tools and <c>--type</c> write it.</summary>
    public static string Name(this GgufTensorType type) => type.ToString().ToLowerInvariant();

    private static LoraSharpException Unknown(GgufTensorType type) => new($"GGUF tensor type {(int)type} is not one this library knows.");
}

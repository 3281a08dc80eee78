using System.Runtime.InteropServices;
using LoraSharp.Formats.Gguf;

namespace LoraSharp.Formats.Tests.Gguf;

/// <summary>
/// Block types against ggml itself, the library that node-llama-cpp ships (see tests/llama-cpp): its decoders on what its
/// encoders wrote, and our encoders against its own. Skipped where the library is missing.
/// </summary>
public sealed unsafe class GgmlLibraryTests(ITestOutputHelper output)
{
    private const int Rows = 64, Columns = 2048;

    public static TheoryData<GgufTensorType> Decoded() =>
    [
        GgufTensorType.Q4_0, GgufTensorType.Q4_1, GgufTensorType.Q5_0, GgufTensorType.Q5_1, GgufTensorType.Q8_0, GgufTensorType.Q2_K, GgufTensorType.Q3_K,
        GgufTensorType.Q4_K, GgufTensorType.Q5_K, GgufTensorType.Q6_K, GgufTensorType.IQ4_NL, GgufTensorType.IQ4_XS, GgufTensorType.TQ1_0, GgufTensorType.TQ2_0,
        GgufTensorType.MXFP4,
    ];

    public static TheoryData<GgufTensorType, bool> Encoded() => new()
    {
        { GgufTensorType.Q8_0, true }, { GgufTensorType.Q4_0, true }, { GgufTensorType.Q4_1, true }, { GgufTensorType.Q5_0, true }, { GgufTensorType.Q5_1, true },
        { GgufTensorType.Q4_K, false }, { GgufTensorType.Q6_K, false },
    };

    [Theory]
    [MemberData(nameof(Decoded))]
    public void Decodes_as_ggml_bit_for_bit(GgufTensorType type)
    {
        nint library = LoadOrSkip();
        byte[] blocks = Encode(library, type, Weights(1));
        float[] expected = new float[Rows * Columns];
        string name = type.ToString();
        var decode = (delegate* unmanaged[Cdecl]<void*, float*, long, void>)NativeLibrary.GetExport(library, "dequantize_row_" + (type == GgufTensorType.MXFP4 ? "mxfp4" : char.ToLowerInvariant(name[0]) + (name[0] == 'I' || name[0] == 'T' ? name[1..].ToLowerInvariant() : name[1..])));
        fixed (byte* source = blocks)
        fixed (float* target = expected)
        {
            decode(source, target, expected.Length);
        }

        float[] actual = new float[expected.Length];
        GgufDequantizer.Dequantize(type, blocks, actual);
        Assert.Equal(MemoryMarshal.AsBytes<float>(expected).ToArray(), MemoryMarshal.AsBytes<float>(actual).ToArray());
    }

    /// <summary>
    /// The types that are searched for need not find the same steps, as sums are rounded in another order; what they find
    /// must be as near.
    /// </summary>
    [Theory]
    [MemberData(nameof(Encoded))]
    public void Encodes_as_ggml(GgufTensorType type, bool exactly)
    {
        nint library = LoadOrSkip();
        float[] weights = Weights(2);
        byte[] theirs = Encode(library, type, weights);
        byte[] ours = new byte[theirs.Length];
        GgufQuantizer.Quantize(type, weights, ours);
        double equal = ours.Zip(theirs, (a, b) => a == b).Count(same => same) / (double)ours.Length;
        (double our, double their) = (Error(type, ours, weights), Error(type, theirs, weights));
        output.WriteLine(FormattableString.Invariant($"{type}: {equal:P3} of the bytes are equal; error {our:G6}, ggml's {their:G6}"));
        Assert.InRange(our / their, 0, 1.001);
        Assert.True(equal >= (exactly ? 0.9999 : 0.97), $"{equal:P3} of the bytes are equal");
    }

    private static double Error(GgufTensorType type, byte[] blocks, float[] weights)
    {
        float[] back = new float[weights.Length];
        GgufDequantizer.Dequantize(type, blocks, back);
        return Math.Sqrt(back.Zip(weights, (a, b) => Math.Pow(a - b, 2)).Sum() / weights.Sum(w => (double)w * w));
    }

    private static byte[] Encode(nint library, GgufTensorType type, float[] weights)
    {
        var encode = (delegate* unmanaged[Cdecl]<int, float*, void*, long, long, long, float*, nuint>)NativeLibrary.GetExport(library, "ggml_quantize_chunk");
        byte[] blocks = new byte[type.ByteCount(weights.Length)];
        fixed (float* source = weights)
        fixed (byte* target = blocks)
        {
            Assert.Equal((nuint)blocks.Length, encode((int)type, source, target, 0, Rows, Columns, null));
        }

        return blocks;
    }

    /// <summary>Normal numbers with a few large ones, as weights are.</summary>
    private static float[] Weights(int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, Rows * Columns).Select(i =>
        {
            double normal = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
            return (float)(normal * 0.03 * (i % 997 == 0 ? 12 : 1));
        })];
    }

    private static nint LoadOrSkip()
    {
        string folder = Environment.GetEnvironmentVariable("LORASHARP_LLAMA_CPP") is { Length: > 0 } given ? given : Path.Combine(Fixtures.Root(), "tests", "llama-cpp");
        string binaries = Path.Combine(folder, "node_modules", "@node-llama-cpp");
        string? file = Directory.Exists(binaries) && OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64
            ? Directory.EnumerateFiles(binaries, "libggml-base.so", SearchOption.AllDirectories).Where(f => f.Contains($"{Path.DirectorySeparatorChar}linux-x64{Path.DirectorySeparatorChar}", StringComparison.Ordinal)).Order(StringComparer.Ordinal).FirstOrDefault()
            : null;
        Assert.SkipWhen(file is null, $"needs node-llama-cpp's libggml-base.so: npm install --ignore-scripts in {folder}");
        return NativeLibrary.Load(file!);
    }
}

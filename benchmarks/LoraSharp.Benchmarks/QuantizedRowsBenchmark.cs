using LoraSharp.Formats.Gguf;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Where multiplying straight from the codes stops to pay: against dequantising the matrix and a dense product, which is
/// the other way a layer has. Weights rotate through 100 MB of bfloat16, as the layers of a model do.
/// </summary>
internal static class QuantizedRowsBenchmark
{
    public static void Run()
    {
        NativeRuntime.EnsureLoaded();
        using var none = no_grad();
        Console.WriteLine($"{get_num_threads()} threads; µs, from the codes / dequantised first");
        Console.WriteLine("| [f, k] | x | rows | NF4, doubly quantised | Q8_0 | Q4_0 | dense |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- | --- |");
        foreach ((long f, long k) in ((long, long)[])[(2048, 2048), (576, 1536)])
        {
            foreach (ScalarType dtype in (ScalarType[])[ScalarType.BFloat16, ScalarType.Float32])
            {
                Products(f, k, dtype);
            }
        }
    }

    private static void Products(long f, long k, ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        int copies = (int)Math.Clamp(50_000_000 / (f * k), 2, 24);
        using var buffer = new DequantizationBuffer();
        Tensor[] dense = [.. Enumerable.Range(0, copies).Select(_ => randn(f, k).to(dtype))];
        IQuantizedMatrix[][] kinds =
        [
            [.. dense.Select(w => FourBitWeight.Quantize(w, "w", new QuantizationOptions(), CPU))],
            [.. dense.Select(w => ScaledBlockWeight.Quantize(w, "w", GgufTensorType.Q8_0, CPU))],
            [.. dense.Select(w => ScaledBlockWeight.Quantize(w, "w", GgufTensorType.Q4_0, CPU))],
        ];
        foreach (int m in (int[])[1, 2, 4, 6, 8, 10, 12, 16])
        {
            Tensor x = randn(m, k).to(dtype);
            int turn = 0;
            IEnumerable<string> cells = kinds.Select(kind =>
            {
                double direct = Stopwatches.Fastest(() => kind[turn++ % copies].Multiply(x, [m, f]).Dispose(), 0.25);
                double first = Stopwatches.Fastest(() => buffer.Use(kind[turn++ % copies], dtype, w => nn.functional.linear(x, w)).Dispose(), 0.25);
                return FormattableString.Invariant($"{direct * 1e6:F0} / {first * 1e6:F0}");
            });
            string[] results = [.. cells];
            double product = Stopwatches.Fastest(() => nn.functional.linear(x, dense[turn++ % copies]).Dispose(), 0.25);
            Console.WriteLine(FormattableString.Invariant($"| [{f}, {k}] | {dtype} | {m} | {string.Join(" | ", results)} | {product * 1e6:F0} |"));
        }

        foreach (IQuantizedMatrix matrix in kinds.SelectMany(k => k))
        {
            matrix.Dispose();
        }
    }
}

using System.Runtime.InteropServices;
using LoraSharp.Formats;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>Quantise, dequantise and multiply in 4 bits, beside torch's own products of the same shape.</summary>
internal static unsafe class FourBitBenchmark
{
    public static void Run()
    {
        NativeRuntime.EnsureLoaded();
        set_num_threads(int.TryParse(Environment.GetEnvironmentVariable("OMP_NUM_THREADS"), out int threads) ? threads : Environment.ProcessorCount);
        Console.WriteLine($"{Environment.ProcessorCount} threads, {VectorWidths.Best}");
        Blocks();
        foreach ((int f, int k) in ((int, int)[])[(2048, 2048), (8192, 2048), (2048, 8192), (4096, 4096), (576, 1536)])
        {
            Products(f, k);
        }
    }

    private static void Blocks()
    {
        const int Count = 4096 * 4096;
        Console.WriteLine("| 16.8 M weights, block 64 | version | G weights/s |");
        Console.WriteLine("| --- | --- | --- |");
        using Tensor single = randn(Count);
        using Tensor half = single.to(ScalarType.BFloat16);
        byte* packed = (byte*)NativeMemory.AlignedAlloc(Count / 2, 64);
        float* absmax = (float*)NativeMemory.AlignedAlloc(Count / 16, 64);
        foreach (VectorWidth width in Enum.GetValues<VectorWidth>().Where(w => w <= VectorWidths.Best).Reverse())
        {
            Row("quantise float32", width, () => FourBitQuantizer.Quantize((void*)AtenTensor.DataPointer(single), ElementType.F32, Count, 64, FourBitCodebook.Nf4, packed, absmax, width));
            Row("quantise bfloat16", width, () => FourBitQuantizer.Quantize((void*)AtenTensor.DataPointer(half), ElementType.BF16, Count, 64, FourBitCodebook.Nf4, packed, absmax, width));
            Row("dequantise to bfloat16", width, () => FourBitDequantizer.Dequantize(packed, new ScaleTable(absmax), Count, 64, FourBitCodebook.Nf4, (void*)AtenTensor.DataPointer(half), ElementType.BF16, width));
            Row("dequantise to float32", width, () => FourBitDequantizer.Dequantize(packed, new ScaleTable(absmax), Count, 64, FourBitCodebook.Nf4, (void*)AtenTensor.DataPointer(single), ElementType.F32, width));
        }

        NativeMemory.AlignedFree(packed);
        NativeMemory.AlignedFree(absmax);

        static void Row(string what, VectorWidth width, Action action) =>
            Console.WriteLine($"| {what} | {width} | {Count / Stopwatches.Fastest(action) / 1e9:F2} |");
    }

    /// <summary>Weights rotate through more memory than the last cache holds, as the layers of a model do.</summary>
    private static void Products(int f, int k)
    {
        int copies = (int)Math.Clamp(200_000_000L / ((long)f * k * 2), 2, 24);
        using var scope = NewDisposeScope();
        Tensor[] singles = [.. Enumerable.Range(0, copies).Select(_ => randn(f, k))];
        Tensor[] halves = [.. singles.Select(w => w.to(ScalarType.BFloat16))];
        byte* packed = (byte*)NativeMemory.AlignedAlloc((nuint)((long)copies * f * k / 2), 64);
        float* absmax = (float*)NativeMemory.AlignedAlloc((nuint)((long)copies * f * k / 16), 64);
        for (int i = 0; i < copies; i++)
        {
            FourBitQuantizer.Quantize((void*)AtenTensor.DataPointer(singles[i]), ElementType.F32, (long)f * k, 64, FourBitCodebook.Nf4, packed + ((long)i * f * k / 2), absmax + ((long)i * f * k / 64));
        }

        Console.WriteLine($"\n| [{f}, {k}], rows of x | torch float32 µs | torch bfloat16 µs | NF4 µs | AVX2 µs | faster than bfloat16 |");
        Console.WriteLine("| --- | --- | --- | --- | --- | --- |");
        foreach (int m in (int[])[1, 2, 4, 8, 16])
        {
            Tensor x = randn(m, k);
            Tensor xh = x.to(ScalarType.BFloat16);
            Tensor y = empty(m, f);
            int turn = 0;
            double single = Stopwatches.Fastest(() => nn.functional.linear(x, singles[turn++ % copies]).Dispose());
            double half = Stopwatches.Fastest(() => nn.functional.linear(xh, halves[turn++ % copies]).Dispose());
            double wide = Time(VectorWidths.Best);
            double narrow = Time(VectorWidth.Avx2);
            Console.WriteLine($"| {m} | {single * 1e6:F0} | {half * 1e6:F0} | {wide * 1e6:F0} | {narrow * 1e6:F0} | {half / wide:F2} |");

            double Time(VectorWidth width) => width > VectorWidths.Best ? double.NaN : Stopwatches.Fastest(() =>
            {
                int i = turn++ % copies;
                FourBitMultiplier.Multiply(packed + ((long)i * f * k / 2), new ScaleTable(absmax + ((long)i * f * k / 64)), 64, FourBitCodebook.Nf4, (void*)AtenTensor.DataPointer(x), (void*)AtenTensor.DataPointer(y), ElementType.F32, m, k, f, width);
            });
        }

        NativeMemory.AlignedFree(packed);
        NativeMemory.AlignedFree(absmax);
    }
}

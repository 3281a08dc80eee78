using System.Diagnostics;
using System.Runtime.InteropServices;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Loading and decoding one sequence on the CPU. Decoding reads every weight once a token, so what it can reach is the
/// rate at which this machine copies memory, measured in the same run.
/// </summary>
internal static class DecodeBenchmark
{
    public static void Run(string folder)
    {
        NativeRuntime.EnsureLoaded();
        Console.WriteLine($"{Environment.ProcessorCount} processors, {get_num_threads()} threads");
        double copy = CopyRate();
        Console.WriteLine($"copy of memory: {copy / 1e9:F1} GB/s copied");
        foreach (ScalarType dtype in new[] { ScalarType.Float32, ScalarType.BFloat16 })
        {
            long before = GC.GetTotalAllocatedBytes();
            long start = Stopwatch.GetTimestamp();
            using ModelSource source = ModelSource.OpenFolder(folder);
            using CausalLanguageModel model = ModelLoader.Load(source, new DenseLinearFactory(), dtype, CPU);
            double loaded = Stopwatch.GetElapsedTime(start).TotalSeconds;
            Decode(model, 1, kernels: true);
            double first = Stopwatch.GetElapsedTime(start).TotalSeconds;
            long peak = Process.GetCurrentProcess().PeakWorkingSet64;
            long bytes = Bytes(model);
            Console.WriteLine($"{dtype}: weights {bytes / 1e6:F0} MB; loaded in {loaded:F2} s, first token after {first:F2} s; peak {peak / 1e6:F0} MB");
            foreach (bool kernels in new[] { true, false })
            {
                double best = Enumerable.Range(0, 3).Min(_ => Decode(model, 48, kernels));
                Console.WriteLine($"  {(kernels ? "own kernels" : "libtorch   ")} {1 / best,7:F1} tokens/s  {bytes / best / 1e9,6:F1} GB/s of weights = {bytes / best / copy,4:P0} of the copy rate");
            }
        }
    }

    // Seconds a token; the plain path is what runs with gradients on.
    private static double Decode(CausalLanguageModel model, int tokens, bool kernels)
    {
        using var mode = set_grad_enabled(!kernels);
        using var cache = new KeyValueCache(model.LayerCount);
        int token = 1;
        long start = 0;
        for (int i = 0; i <= tokens; i++)
        {
            start = i == 1 ? Stopwatch.GetTimestamp() : start;
            using var scope = NewDisposeScope();
            Tensor logits = model.Forward(tensor(new long[] { token }).unsqueeze(0), tensor(new long[] { i }).unsqueeze(0), cache);
            token = (int)logits.argmax().item<long>();
        }

        return Stopwatch.GetElapsedTime(start).TotalSeconds / tokens;
    }

    private static long Bytes(CausalLanguageModel model)
    {
        // A tied weight is read once, as the output projection; the embedding gives one row.
        var seen = new HashSet<nint>();
        return model.Parameters.Where(p => seen.Add(AtenTensor.DataPointer(p.Value))).Sum(p => p.Value.NumberOfElements * p.Value.ElementSize);
    }

    private static unsafe double CopyRate()
    {
        const long Size = 1L << 28;
        byte* from = (byte*)NativeMemory.AllocZeroed((nuint)Size), to = (byte*)NativeMemory.AllocZeroed((nuint)Size);
        var work = new CopyWork { From = from, To = to };
        double seconds = Stopwatches.Fastest(() => ParallelRange.For(0, Size, 1 << 20, ref work), 2);
        NativeMemory.Free(from);
        NativeMemory.Free(to);
        return Size / seconds;
    }

    private unsafe struct CopyWork : IRangeWork
    {
        public byte* From;
        public byte* To;

        public readonly void Run(long begin, long end) => Buffer.MemoryCopy(From + begin, To + begin, end - begin, end - begin);
    }
}

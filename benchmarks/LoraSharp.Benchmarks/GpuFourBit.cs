using System.Globalization;
using LoraSharp.Quantization;
using LoraSharp.Serving.Cuda;
using LoraSharp.Tensors.Cuda;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Products of few rows with 4-bit matrices on a GPU: checked against the dequantised matrix in float32, then timed against
/// dequantise + cuBLAS and against cuBLAS with bf16 weights. <c>gpu-decode 4bit check</c>, <c>gpu-decode 4bit time [1b|8b] [n=8]
/// [splits=N] [warps=4|8] [search]</c>. One JSON line each.
/// </summary>
internal static class GpuFourBit
{
    public static int Run(Device device, string[] args) => args.FirstOrDefault() switch
    {
        "check" => Check(device),
        "time" => Time(device, args[1..]),
        _ => 2,
    };

    /// <summary>Random codes with scales around 1/√k: what a quantised matrix looks like to the kernels. Each part has an offset of its own.</summary>
    public static FourBitMatrix Random(IReadOnlyList<long> rows, long columns, QuantizationOptions options, Device device, List<Tensor> owned)
    {
        var parts = new List<FourBitWeight>();
        double scale = 1 / Math.Sqrt(columns);
        foreach (long f in rows)
        {
            long blocks = ((f * columns) + options.BlockSize - 1) / options.BlockSize;
            Tensor codes = Own(randint(0, 256, [f * columns / 2, 1], ScalarType.Byte, device));
            Tensor scales = Own(options.DoubleQuantization ? randint(0, 256, [blocks], ScalarType.Byte, device) : (rand([blocks], ScalarType.Float32, device) + 0.5) * scale);
            Tensor? nested = options.DoubleQuantization ? Own((rand([(blocks + 255) / 256], ScalarType.Float32, device) + 0.5) * (0.2 * scale)) : null;
            parts.Add(new FourBitWeight(FourBitCodebook.Of(options.Type), options.BlockSize, f, columns, ScalarType.BFloat16, codes, scales, nested, (float)(scale * (1 + (0.1 * parts.Count)))));
        }

        return new FourBitMatrix(parts);

        Tensor Own(Tensor t)
        {
            owned.Add(t.DetachFromDisposeScope());
            return t;
        }
    }

    private static int Check(Device device)
    {
        long[][] shapes = [[96], [256, 64, 64], [520, 520], [8], [40, 264, 136]];
        long[] inputs = [32, 256, 1088, 2048, 4096];
        int[] rows = [1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 48, 64, 65, 128, 130, 300];
        int faults = 0;
        random.manual_seed(11);
        foreach (FourBitType type in Enum.GetValues<FourBitType>())
        {
            foreach (bool doubly in (bool[])[false, true])
            {
                foreach (int block in (int[])[32, 64, 128, 512, 4096])
                {
                    var options = new QuantizationOptions { Type = type, BlockSize = block, DoubleQuantization = doubly };
                    double worst = 0;
                    int unequal = 0;
                    int products = 0;
                    string where = "";
                    for (int i = 0; i < shapes.Length; i++)
                    {
                        using var scope = NewDisposeScope();
                        var owned = new List<Tensor>();
                        long k = inputs[(i + block) % inputs.Length];
                        FourBitMatrix matrix = Random(shapes[i], k, options, device, owned);
                        Tensor weights = matrix.Dequantize().@float();
                        foreach (FewRowsPlan? forced in Layouts(matrix))
                        {
                            using var product = new FourBitProduct([matrix], 512, device, forced is null ? null : (m, n) => Like(forced, m, n));
                            foreach (int n in rows)
                            {
                                Tensor x = randn([n, k], ScalarType.Float32, device).to(ScalarType.BFloat16);
                                // Every number is written: what was there before is not a number.
                                Tensor first = full([n, shapes[i].Sum()], double.NaN, ScalarType.BFloat16, device);
                                Tensor second = full_like(first, double.NaN);
                                product.Multiply(matrix, x, first);
                                product.Multiply(matrix, x, second);
                                Tensor expected = x.@float().matmul(weights.t());
                                // Half a unit of bf16 of the output, and float32's own error in a sum of k numbers.
                                Tensor size = x.@float().abs().matmul(weights.abs().t());
                                // cuBLAS may add up parts of k in bf16.
                                double allowed = n > FourBitProduct.MostRows ? 8 : 1;
                                double error = ((first.@float() - expected).abs() / ((expected.abs() * (1.01 / 256)) + (size * 4e-6))).max().item<float>() / allowed;
                                error = double.IsNaN(error) ? double.PositiveInfinity : error;
                                products++;
                                unequal += first.eq(second).all().item<bool>() ? 0 : 1;
                                if (error > worst)
                                {
                                    (worst, where) = (error, $"{string.Join('+', shapes[i])}x{k}, n {n}, {(forced is null ? "planned" : $"warps {forced.RowGroups}, parts {forced.Parts}")}");
                                }
                            }
                        }

                        owned.ForEach(t => t.Dispose());
                    }

                    bool good = worst <= 1 && unequal == 0;
                    faults += good ? 0 : 1;
                    Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{{\"check\":\"{(good ? "ok" : "FAILED")}\",\"four_bit\":\"{type}\",\"block\":{block},\"double\":{(doubly ? "true" : "false")},\"products\":{products},\"worst_of_allowed\":{worst:0.000},\"at\":\"{where}\",\"not_repeated\":{unequal}}}"));
                }
            }
        }

        return faults;
    }

    // The planned layout, and both ways of laying warps with k whole, in two, and in as many parts as there are steps.
    private static IEnumerable<FewRowsPlan?> Layouts(FourBitMatrix matrix)
    {
        yield return null;
        foreach (int warps in (int[])[4, 8])
        {
            foreach (int parts in (int[])[1, 2, 3, FewRowsPlan.MostParts])
            {
                if (FewRowsPlan.With(1, warps, parts, matrix.Outputs, matrix.Columns, matrix.BlockSize) is { } plan && FewRowsPlan.With(64, warps, parts, matrix.Outputs, matrix.Columns, matrix.BlockSize) is not null)
                {
                    yield return plan;
                }
            }
        }
    }

    private static FewRowsPlan Like(FewRowsPlan layout, FourBitMatrix matrix, int n) =>
        FewRowsPlan.With(n, layout.RowGroups, layout.Parts, matrix.Outputs, matrix.Columns, matrix.BlockSize)!;

    private static int Time(Device device, string[] args)
    {
        (string Name, long[] Rows, long K)[] shapes =
        [
            ("1b qkv", [2048, 512, 512], 2048), ("1b o", [2048], 2048), ("1b gate_up", [8192, 8192], 2048), ("1b down", [2048], 8192),
            ("8b qkv", [4096, 1024, 1024], 4096), ("8b o", [4096], 4096), ("8b gate_up", [14336, 14336], 4096), ("8b down", [4096], 14336),
        ];
        int[] rows = GpuDecoding.Value(args, "n", 0) is > 0 and int one ? [one] : [1, 8, 16, 32, 64, FourBitProduct.MostRows];
        int splits = GpuDecoding.Value(args, "splits", 0);
        int warps = GpuDecoding.Value(args, "warps", 0);
        string[] models = [.. args.Where(a => a is "1b" or "8b")];
        random.manual_seed(12);
        using IDisposable none = no_grad();
        using var clock = new DeviceClock(device);
        foreach ((string name, long[] outputs, long k) in shapes.Where(s => models.Length == 0 || models.Contains(s.Name[..2])))
        {
            using var scope = NewDisposeScope();
            var owned = new List<Tensor>();
            long f = outputs.Sum();
            // Several matrices take turns: one alone would stay in the second-level cache.
            int copies = (int)Math.Clamp(300_000_000 / (f * k / 2), 3, 64);
            FourBitMatrix[] matrices = [.. Enumerable.Range(0, copies).Select(_ => Random(outputs, k, new QuantizationOptions(), device, owned))];
            Tensor[] dense = [.. matrices.Take(Math.Max(3, copies / 4)).Select(m => m.Dequantize().t())];
            Tensor buffer = empty([outputs.Max() * k], ScalarType.BFloat16, device);
            foreach (int n in rows)
            {
                using var inner = NewDisposeScope();
                Tensor x = randn([n, k], ScalarType.Float32, device).to(ScalarType.BFloat16);
                Tensor y = zeros([n, f], ScalarType.BFloat16, device);
                double bf16 = clock.Median(i => new AtenCall("aten::mm", "out").Add(x).Add(dense[i % dense.Length]).Add(y).InvokeOut(), dense.Length);
                double dequantised = clock.Median(i => FourBitProduct.MultiplyDense(matrices[i % copies], x, y, buffer), copies);
                double bytes = matrices[0].Parts.Sum(p => p.Bytes);
                foreach (FewRowsPlan? forced in Tried(matrices[0], n, splits, warps, args.Contains("search")))
                {
                    using var product = new FourBitProduct(matrices, n, device, forced is null ? null : (m, r) => r == n ? forced : Like(forced, m, r));
                    double ours = clock.Median(i => product.Multiply(matrices[i % copies], x, y), copies);
                    FewRowsPlan plan = product.Plan(matrices[0], n);
                    Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{{\"shape\":\"{name}\",\"n\":{n},\"us\":{ours:0.0},\"gb_s\":{bytes / ours / 1e3:0},\"dequantise_cublas_us\":{dequantised:0.0},\"bf16_cublas_us\":{bf16:0.0},\"bf16_over_ours\":{bf16 / ours:0.00},\"kernel\":\"{plan.Kernel}\",\"parts\":{plan.Parts},\"blocks\":{plan.OutputTiles * plan.Parts * plan.Pieces},\"planned\":{(forced is null ? "true" : "false")}}}"));
                }
            }

            owned.ForEach(t => t.Dispose());
        }

        return 0;
    }

    private static IEnumerable<FewRowsPlan?> Tried(FourBitMatrix matrix, int n, int splits, int warps, bool search)
    {
        if (!search && splits == 0 && warps == 0)
        {
            yield return null;
            yield break;
        }

        foreach (int w in warps > 0 ? [warps] : (int[])[4, 8])
        {
            foreach (int parts in splits > 0 ? [splits] : (int[])[1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24])
            {
                if (FewRowsPlan.With(n, w, parts, matrix.Outputs, matrix.Columns, matrix.BlockSize) is { } plan)
                {
                    yield return plan;
                }
            }
        }
    }

    // Times by the device's own clock; many launches between two marks, so that what the host does is hidden by the queue.
    private sealed class DeviceClock : IDisposable
    {
        private const int Repeats = 7;
        private readonly CudaStreamScope _stream;
        private readonly nint _start;
        private readonly nint _end;

        public DeviceClock(Device device)
        {
            zeros(1, device: device).Dispose();
            _stream = new CudaStreamScope(Math.Max(device.index, 0));
            CudaDriver.Check(CudaDriver.cuEventCreate(out _start, 0), "make an event");
            CudaDriver.Check(CudaDriver.cuEventCreate(out _end, 0), "make an event");
        }

        /// <summary>Microseconds of one call: of a graph with two rounds over the operands, the median of its replays.</summary>
        public double Median(Action<int> work, int operands)
        {
            int calls = 2 * operands;
            void All()
            {
                using var scope = NewDisposeScope();
                for (int i = 0; i < calls; i++)
                {
                    work(i);
                }
            }

            All();
            _stream.Synchronize();
            using CudaGraph graph = CudaGraph.Capture(All, _stream);
            graph.Replay();
            var times = new List<double>();
            for (int i = 0; i < Repeats; i++)
            {
                CudaDriver.Check(CudaDriver.cuEventRecord(_start, _stream.Stream), "mark a time");
                graph.Replay();
                CudaDriver.Check(CudaDriver.cuEventRecord(_end, _stream.Stream), "mark a time");
                CudaDriver.Check(CudaDriver.cuEventSynchronize(_end), "wait for a mark");
                CudaDriver.Check(CudaDriver.cuEventElapsedTime(out float milliseconds, _start, _end), "read a time");
                times.Add(milliseconds * 1000 / calls);
            }

            times.Sort();
            return times[Repeats / 2];
        }

        public void Dispose()
        {
            _ = CudaDriver.cuEventDestroy(_start);
            _ = CudaDriver.cuEventDestroy(_end);
            _stream.Dispose();
        }
    }
}

using System.Diagnostics;
using System.Globalization;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Cuda;
using LoraSharp.Training.Fused;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// The fused LoRA step on a GPU: checked against a plain model in float32 by autograd, then timed with random weights.
/// <c>gpu-train check</c>, <c>gpu-train 1b|8b|0.5b|65b [steps] [nf4] [ckpt [keep]] [batch=N] [chunk=N] [packed] [eager]</c>. One JSON line each, as
/// the peers' scripts print.
/// </summary>
internal static class GpuTraining
{
    private sealed record Sizes(int Layers, long D, long H, long K, long E, long F, long V, int Rows, int Length, bool Tied);

    public static int Run(string[] args)
    {
        NativeRuntime.EnsureLoaded();
        var device = new Device(DeviceType.CUDA, 0);
        return args[0] switch
        {
            "check" => CheckDequantization(device) + Check(device, packed: false, checkpointing: false) + Check(device, packed: false, checkpointing: true)
                + Check(device, packed: true, checkpointing: false) + Check(device, packed: true, checkpointing: true, nf4: true)
                + Check(device, packed: false, checkpointing: false, norms: true) + Check(device, packed: true, checkpointing: false, norms: true) + Check(device, packed: true, checkpointing: true, norms: true),
            "1b" => Time(device, "llama-1b", new(16, 2048, 32, 8, 64, 8192, 128256, 4, 2048, true), args),
            "8b" => Time(device, "llama-8b", new(32, 4096, 32, 8, 128, 14336, 128256, 2, 2048, false), args),
            "0.5b" => Time(device, "llama-0.5b", new(24, 896, 14, 2, 64, 4864, 151936, 8, 1024, true), args),
            "65b" => Time(device, "llama-65b", new(80, 8192, 64, 64, 128, 22016, 32000, 1, 2048, false), args),
            _ => 2,
        };
    }

    private static FusedModel Random(Sizes s, Device device, int rank, List<Tensor> owned, ulong seed, bool nf4 = false, bool biases = false, bool norms = false)
    {
        using IDisposable none = no_grad();
        random.manual_seed((long)seed);
        Tensor Own(Tensor t)
        {
            owned.Add(t.DetachFromDisposeScope());
            return t;
        }

        Tensor W(long rows, long columns)
        {
            Tensor made = Own(empty([rows, columns], ScalarType.BFloat16, device));
            Fill(made);
            return made;
        }

        // A few rows at a time: float32 numbers of the whole would stay in the allocator's cache and count as memory used.
        void Fill(Tensor matrix)
        {
            for (long row = 0; row < matrix.size(0); row += 1024)
            {
                using var scope = NewDisposeScope();
                Tensor rows = matrix.narrow(0, row, Math.Min(1024, matrix.size(0) - row));
                rows.copy_(randn(rows.shape, ScalarType.Float32, device).mul_(0.6 / Math.Sqrt(matrix.size(1))));
            }
        }

        // Random codes with scales around 1/√k: what a quantised matrix of that size looks like to the kernels.
        FourBitWeight FourBit(long rows, long columns)
        {
            long blocks = rows * columns / 64;
            return new FourBitWeight(
                FourBitCodebook.Nf4,
                64,
                rows,
                columns,
                ScalarType.BFloat16,
                Own(randint(0, 256, [rows * columns / 2, 1], ScalarType.Byte, device)),
                Own(randint(0, 256, [blocks], ScalarType.Byte, device)),
                Own(full([(blocks + 255) / 256], 0.1 / Math.Sqrt(columns), ScalarType.Float32, device)),
                (float)(1 / Math.Sqrt(columns)));
        }

        ulong made = 1;
        FusedLinear L(string name, long rows, long columns)
        {
            ulong own = made++;
            FourBitWeight? packed = nf4 ? FourBit(rows, columns) : null;
            return new FusedLinear
            {
                Name = name,
                Rows = rows,
                // Made where it is wanted, the same each time: no second copy of the base.
                WriteBase = view =>
                {
                    if (packed is not null)
                    {
                        packed.DequantizeInto(view);
                        return;
                    }

                    TorchSharp.torch.cuda.manual_seed((long)(seed + own));
                    Fill(view);
                },
                A = Own(randn([rank, columns], ScalarType.Float32, device) * (1 / Math.Sqrt(columns))),
                B = Own(randn([rows, rank], ScalarType.Float32, device) * 0.02),
                Scaling = 2,
            };
        }

        Tensor NormOf(long size, double spread) => Own((1 + (randn([size], ScalarType.Float32, device) * spread)).to(ScalarType.BFloat16));
        Tensor Norm() => NormOf(s.D, 0.1);
        var layers = new List<FusedLayer>();
        for (int l = 0; l < s.Layers; l++)
        {
            layers.Add(new FusedLayer(
                Norm(), Norm(), L($"{l}.q", s.H * s.E, s.D), L($"{l}.k", s.K * s.E, s.D), L($"{l}.v", s.K * s.E, s.D), L($"{l}.o", s.D, s.H * s.E),
                L($"{l}.gate", s.F, s.D), L($"{l}.up", s.F, s.D), L($"{l}.down", s.D, s.F))
            {
                QkvBias = biases ? Own((randn([(s.H + (2 * s.K)) * s.E], ScalarType.Float32, device) * 0.2).to(ScalarType.BFloat16)) : null,
                // Some weights near 0: what was before the norm cannot be had from what was after it.
                QueryNorm = norms ? NormOf(s.E, 0.5) : null,
                KeyNorm = norms ? NormOf(s.E, 0.5) : null,
            });
        }

        Tensor embedding = W(s.V, s.D);
        Tensor angles = arange(s.Length, ScalarType.Float32, device).unsqueeze(1) * ((arange(0, s.E, 2, ScalarType.Float32, device) / -s.E) * Math.Log(500000)).exp().unsqueeze(0);
        var shape = new LlamaShape { Size = s.D, Heads = s.H, KeyHeads = s.K, HeadSize = s.E, Inner = s.F, Vocabulary = s.V, Epsilon = 1e-5, AttentionScale = 1 / Math.Sqrt(s.E) };
        return new FusedModel(shape, embedding, layers, Norm(), s.Tied ? embedding : W(s.V, s.D), Own(angles.cos()), Own(angles.sin()));
    }

    // The kernel gives the CPU's numbers bit for bit, into rows of any stride.
    private static int CheckDequantization(Device device)
    {
        using var scope = NewDisposeScope();
        int faults = 0;
        foreach (bool doubly in (bool[])[false, true])
        {
            foreach (int blockSize in (int[])[32, 64, 256, 4096])
            {
                foreach (ScalarType type in (ScalarType[])[ScalarType.BFloat16, ScalarType.Float32])
                {
                    Tensor matrix = randn([96, 520], ScalarType.Float32).to(type);
                    var options = new QuantizationOptions { BlockSize = blockSize, DoubleQuantization = doubly };
                    using FourBitWeight there = FourBitWeight.Quantize(matrix, "check", options, device);
                    using FourBitWeight here = FourBitWeight.Quantize(matrix, "check", options, CPU);
                    Tensor target = zeros([96, 528], type, device);
                    there.DequantizeInto(target.narrow(1, 0, 520));
                    Tensor expected = empty([96, 520], type);
                    here.DequantizeInto(expected);
                    bool equal = target.narrow(1, 0, 520).cpu().eq(expected).all().item<bool>() && there.Packed.cpu().eq(here.Packed).all().item<bool>();
                    faults += equal ? 0 : 1;
                    Console.WriteLine($"{{\"check\":\"{(equal ? "ok" : "FAILED")}\",\"nf4\":\"{type}\",\"block\":{blockSize},\"double\":{(doubly ? "true" : "false")}}}");
                }
            }
        }

        return faults;
    }

    private static int Check(Device device, bool packed, bool checkpointing, bool nf4 = false, bool norms = false)
    {
        var s = new Sizes(3, 256, 8, 4, 64, 512, 1024, 2, 256, false);
        var owned = new List<Tensor>();
        using var scope = NewDisposeScope();
        // Where rows are packed the model has biases too, as Qwen2's.
        FusedModel model = Random(s, device, 8, owned, 3, nf4, biases: packed, norms);
        long n = (long)s.Rows * s.Length;
        long[] ids = randint(s.V, [n]).to(ScalarType.Int64).data<long>().ToArray();
        int[] borders = packed ? [0, 100, 256, 300, 512] : [0, 256, 512];
        int[] positions = [.. Enumerable.Range(0, (int)n).Select(i => i - borders.Last(b => b <= i))];
        long[] labels = [.. Enumerable.Range(0, (int)n).Select(i => borders.Contains(i + 1) || i % 7 == 0 ? -100 : ids[i + 1])];
        double inverse = 1.0 / labels.Count(l => l >= 0);
        (double expected, Dictionary<string, (Tensor A, Tensor B)> gradients) = Plain(model, s, ids, labels, positions, borders, inverse, device);
        int faults = 0;
        foreach (bool graphs in (bool[])[false, true])
        {
            var options = new FusedOptions { Rows = s.Rows, Length = s.Length, MostSequences = borders.Length - 1 + 3, Checkpointing = checkpointing, InputsInHostMemory = checkpointing && packed, Graphs = graphs, LossChunk = 192, MaxGradNorm = 1, SharedWeights = nf4 };
            // The step takes the factors over and changes them.
            FusedModel own = WithOwnFactors(model);
            using HostTable? table = options.InputsInHostMemory ? new HostTable(model.Embedding) : null;
            using var step = new FusedLoraStep(table is null ? own : own with { Embedding = table.View() }, options, device);
            // Eager or captured, replayed, replayed and added.
            for (int i = 0; i < 3; i++)
            {
                step.MicroStep(ids, labels, positions, packed ? borders : null, inverse / 2, first: i < 2);
            }

            double worst = 0;
            string where = "";
            foreach ((string name, Tensor a, Tensor b) in step.ReadGradients())
            {
                foreach ((Tensor got, Tensor want, string which) in new[] { (a, gradients[name].A.cpu(), "A"), (b, gradients[name].B.cpu(), "B") })
                {
                    double error = (got - want).norm().item<float>() / Math.Max(1e-12, want.norm().item<float>());
                    if (!(error <= worst))
                    {
                        (worst, where) = (error, $"{name}.{which}");
                    }
                }
            }

            step.Optimize(1e-3);
            (double loss, double norm) = step.Read();
            double expectedNorm = Math.Sqrt(gradients.Values.Sum(g => Math.Pow(g.A.norm().item<float>(), 2) + Math.Pow(g.B.norm().item<float>(), 2)));
            // bf16 activations: a few parts in a hundred of a gradient's norm.
            bool good = Math.Abs(loss - expected) < 0.01 && worst < 0.05 && Math.Abs(norm / expectedNorm - 1) < 0.03;
            faults += good ? 0 : 1;
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{{\"check\":\"{(good ? "ok" : "FAILED")}\",\"base\":\"{(nf4 ? "nf4" : "bf16")}\",\"head_norms\":{(norms ? "true" : "false")},\"packed\":{(packed ? "true" : "false")},\"checkpointing\":{(checkpointing ? "true" : "false")},\"graphs\":{(graphs ? "true" : "false")},\"loss\":{loss:0.00000},\"float32\":{expected:0.00000},\"worst_gradient_error\":{worst:0.0000},\"at\":\"{where}\",\"norm\":{norm:0.0000},\"norm_float32\":{expectedNorm:0.0000}}}"));
        }

        owned.ForEach(t => t.Dispose());
        return faults;
    }

    private static FusedModel WithOwnFactors(FusedModel model)
    {
        static FusedLinear Own(FusedLinear linear) => linear with { A = linear.A!.clone(), B = linear.B!.clone() };
        return model with
        {
            Layers = [.. model.Layers.Select(l => l with { Query = Own(l.Query), Key = Own(l.Key), Value = Own(l.Value), Output = Own(l.Output), Gate = Own(l.Gate), Up = Own(l.Up), Down = Own(l.Down) })],
        };
    }

    // The same model in float32 by plain operators and autograd.
    private static (double Loss, Dictionary<string, (Tensor A, Tensor B)> Gradients) Plain(FusedModel model, Sizes s, long[] ids, long[] labels, int[] positions, int[] borders, double inverse, Device device)
    {
        var factors = new Dictionary<string, (Tensor A, Tensor B)>();
        long n = ids.Length;
        Tensor Linear(FusedLinear l, Tensor x)
        {
            Tensor w = empty([l.Rows, x.shape[^1]], ScalarType.BFloat16, device);
            l.WriteBase(w);
            (Tensor A, Tensor B) f = (l.A!.clone().requires_grad_(), l.B!.clone().requires_grad_());
            factors[l.Name] = f;
            return x.matmul(w.@float().t()) + (x.matmul(f.A.t()).matmul(f.B.t()) * l.Scaling);
        }

        Tensor Norm(Tensor x, Tensor w) => x * (x.pow(2).mean([-1L], keepdim: true) + model.Shape.Epsilon).rsqrt() * w.@float();
        Tensor at = tensor(positions.Select(p => (long)p).ToArray(), device: device);
        Tensor cosines = model.Cosines.index_select(0, at).unsqueeze(1);
        Tensor sines = model.Sines.index_select(0, at).unsqueeze(1);
        Tensor Rope(Tensor x)
        {
            Tensor a = x.narrow(-1, 0, s.E / 2);
            Tensor b = x.narrow(-1, s.E / 2, s.E / 2);
            return cat([(a * cosines) - (b * sines), (b * cosines) + (a * sines)], -1);
        }

        Tensor sequence = tensor(Enumerable.Range(0, (int)n).Select(i => (long)borders.Count(b => b <= i)).ToArray(), device: device);
        Tensor index = arange(n, ScalarType.Int64, device);
        Tensor seen = sequence.unsqueeze(1).eq(sequence.unsqueeze(0)).logical_and(index.unsqueeze(1).ge(index.unsqueeze(0)));
        Tensor x = model.Embedding.@float().index_select(0, tensor(ids, device: device));
        foreach (FusedLayer l in model.Layers)
        {
            Tensor y = Norm(x, l.AttentionNorm);
            Tensor Bias(Tensor to, long from) => l.QkvBias is { } bias ? to + bias.narrow(0, from, to.shape[1]).@float() : to;
            Tensor Normed(Tensor x, Tensor? w) => w is null ? x : Norm(x, w);
            Tensor q = Rope(Normed(Bias(Linear(l.Query, y), 0).view(n, s.H, s.E), l.QueryNorm)).transpose(0, 1);
            Tensor k = Rope(Normed(Bias(Linear(l.Key, y), s.H * s.E).view(n, s.K, s.E), l.KeyNorm)).transpose(0, 1).repeat_interleave(s.H / s.K, 0);
            Tensor v = Bias(Linear(l.Value, y), (s.H + s.K) * s.E).view(n, s.K, s.E).transpose(0, 1).repeat_interleave(s.H / s.K, 0);
            Tensor p = (q.matmul(k.transpose(-1, -2)) * model.Shape.AttentionScale).masked_fill(seen.logical_not(), float.NegativeInfinity).softmax(-1);
            x = x + Linear(l.Output, p.matmul(v).transpose(0, 1).reshape(n, s.H * s.E));
            y = Norm(x, l.MlpNorm);
            x = x + Linear(l.Down, nn.functional.silu(Linear(l.Gate, y)) * Linear(l.Up, y));
        }

        Tensor logits = Norm(x, model.FinalNorm).matmul(model.Head.@float().t());
        Tensor loss = nn.functional.cross_entropy(logits, tensor(labels, device: device), ignore_index: -100, reduction: nn.Reduction.Sum) * inverse;
        loss.backward();
        return (loss.item<float>(), factors.ToDictionary(f => f.Key, f => (f.Value.A.grad!, f.Value.B.grad!)));
    }

    private static int Time(Device device, string name, Sizes s, string[] args)
    {
        int steps = args.Length > 1 ? int.Parse(args[1], CultureInfo.InvariantCulture) : 8;
        bool checkpointing = args.Contains("ckpt");
        bool nf4 = args.Contains("nf4");
        s = s with { Rows = GpuDecoding.Value(args, "batch", s.Rows) };
        var owned = new List<Tensor>();
        // The context exists from the first tensor on.
        zeros(1, device: device).Dispose();
        (long Free, long Total) start = CudaDriver.Memory();
        long before = start.Total - start.Free;
        using (var scope = NewDisposeScope())
        {
            FusedModel model = Random(s, device, 16, owned, 1, nf4);
            // As FusedObjective does it.
            using HostTable? table = checkpointing && !s.Tied && !args.Contains("keep") ? new HostTable(model.Embedding) : null;
            if (table is not null)
            {
                model.Embedding.Dispose();
                model = model with { Embedding = table.View() };
            }

            var options = new FusedOptions { Rows = s.Rows, Length = s.Length, MostSequences = args.Contains("packed") ? 64 * s.Rows : s.Rows, Checkpointing = checkpointing, InputsInHostMemory = checkpointing && !args.Contains("keep"), LossChunk = GpuDecoding.Value(args, "chunk", 0), Graphs = !args.Contains("eager"), SharedWeights = nf4 };
            using var step = new FusedLoraStep(model, options, device);
            long n = (long)s.Rows * s.Length;
            // Packed: rows of three documents.
            int[]? borders = args.Contains("packed") ? [.. Enumerable.Range(0, s.Rows).SelectMany(r => (int[])[r * s.Length, (r * s.Length) + (s.Length / 5), (r * s.Length) + (s.Length / 2)]), (int)n] : null;
            int[] positions = [.. Enumerable.Range(0, (int)n).Select(i => i - (borders?.Last(b => b <= i) ?? (i / s.Length * s.Length)))];
            var times = new List<double>();
            (double Loss, double GradientNorm) read = default;
            for (int i = 0; i < steps + 4; i++)
            {
                long[] ids = randint(s.V, [n]).to(ScalarType.Int64).data<long>().ToArray();
                long[] labels = [.. Enumerable.Range(0, (int)n).Select(j => (j + 1) % s.Length == 0 ? -100 : ids[j + 1])];
                step.Synchronize();
                long began = Stopwatch.GetTimestamp();
                step.MicroStep(ids, labels, positions, borders, 1.0 / labels.Count(l => l >= 0), true);
                step.Optimize(1e-4);
                step.Synchronize();
                if (i >= 4)
                {
                    times.Add(Stopwatch.GetElapsedTime(began).TotalMilliseconds);
                }

                read = step.Read();
            }

            times.Sort();
            double median = times[times.Count / 2];
            (long Free, long Total) end = CudaDriver.Memory();
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{{\"ours\":\"fused{(options.Graphs ? "+graphs" : "")}\",\"model\":\"{name}\",\"base\":\"{(nf4 ? "nf4+dq" : "bf16")}\",\"seq\":{s.Length},\"batch\":{s.Rows},\"rank\":16,\"packed\":{(borders is null ? "false" : "true")},\"ckpt\":{(checkpointing ? "true" : "false")},\"tok_s\":{n / median * 1000:0},\"ms\":{median:0.0},\"device_gib_used\":{(end.Total - end.Free - before) / (double)(1 << 30):0.00},\"loss\":{read.Loss:0.000}}}"));
        }

        owned.ForEach(t => t.Dispose());
        return 0;
    }
}

using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Serving.Cuda;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Cuda;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Serving on a GPU: checked against a plain model in float32, then timed with random weights as the peers are: 128 + 128
/// tokens. <c>gpu-decode check</c>, <c>gpu-decode 1b|8b [nf4] [requests=32] [adapters=8] [eager]</c>, <c>gpu-decode 4bit</c> (<see cref="GpuFourBit"/>). One JSON line each.
/// </summary>
internal static class GpuDecoding
{
    private const int Prompt = 128;
    private const int New = 128;

    private sealed record Sizes(int Layers, long D, long H, long K, long E, long F, long V, bool Tied);

    public static int Run(string[] args)
    {
        NativeRuntime.EnsureLoaded();
        var device = new Device(DeviceType.CUDA, 0);
        return args[0] switch
        {
            "check" => Check(device, new(3, 256, 8, 4, 64, 512, 1024, false)) + Check(device, new(2, 384, 6, 2, 64, 640, 1000, true)) + Check(device, new(2, 512, 4, 1, 128, 512, 1024, false))
                + Check(device, new(3, 256, 8, 4, 64, 512, 1024, false), nf4: true, norms: true) + Check(device, new(2, 384, 4, 2, 96, 512, 1024, true), norms: true) + CheckDraws(device),
            "4bit" => GpuFourBit.Run(device, args[1..]),
            "1b" => Time(device, "llama-1b", new(16, 2048, 32, 8, 64, 8192, 128256, true), args),
            "8b" => Time(device, "llama-8b", new(32, 4096, 32, 8, 128, 14336, 128256, false), args),
            _ => 2,
        };
    }

    private static DecoderWeights Random(Sizes s, Device device, List<Tensor> owned, int positions, bool biases = false, bool nf4 = false, bool norms = false)
    {
        using IDisposable none = no_grad();
        Tensor Own(Tensor t)
        {
            owned.Add(t.DetachFromDisposeScope());
            return t;
        }

        Tensor W(long rows, long columns)
        {
            Tensor made = Own(empty([rows, columns], ScalarType.BFloat16, device));
            for (long row = 0; row < rows; row += 4096)
            {
                using var scope = NewDisposeScope();
                long count = Math.Min(4096, rows - row);
                made.narrow(0, row, count).copy_(randn([count, columns], ScalarType.Float32, device) * (0.6 / Math.Sqrt(columns)));
            }

            return made;
        }

        DecoderMatrix M(long columns, params long[] rows) => nf4 ? GpuFourBit.Random(rows, columns, new QuantizationOptions(), device, owned) : W(rows.Sum(), columns);
        Tensor NormOf(long size, double spread) => Own((1 + (randn([size], ScalarType.Float32, device) * spread)).to(ScalarType.BFloat16));
        Tensor Norm() => NormOf(s.D, 0.1);
        Tensor embedding = W(s.V, s.D);
        Tensor angles = arange(positions, ScalarType.Float32, device).unsqueeze(1) * ((arange(0, s.E, 2, ScalarType.Float32, device) / -s.E) * Math.Log(500000)).exp().unsqueeze(0);
        var shape = new LlamaShape { Size = s.D, Heads = s.H, KeyHeads = s.K, HeadSize = s.E, Inner = s.F, Vocabulary = s.V, Epsilon = 1e-5, AttentionScale = 1 / Math.Sqrt(s.E) };
        return new DecoderWeights(
            shape,
            embedding,
            [.. Enumerable.Range(0, s.Layers).Select(_ => (Norm(), Norm()))],
            [.. Enumerable.Range(0, s.Layers).Select(_ => (IReadOnlyList<DecoderMatrix>)[M(s.D, s.H * s.E, s.K * s.E, s.K * s.E), M(s.H * s.E, s.D), M(s.D, s.F, s.F), M(s.F, s.D)])],
            Norm(),
            s.Tied ? embedding : W(s.V, s.D),
            Own(angles.cos()),
            Own(angles.sin()))
        {
            Biases = biases ? [.. Enumerable.Range(0, s.Layers).Select(_ => Own((randn([(s.H + (2 * s.K)) * s.E], ScalarType.Float32, device) * 0.5).to(ScalarType.BFloat16)))] : [],
            HeadNorms = norms ? [.. Enumerable.Range(0, s.Layers).Select(_ => (NormOf(s.E, 0.5), NormOf(s.E, 0.5)))] : [],
        };
    }

    // Pairs of one adapter: every linear, or (sparse) some of them.
    private static Dictionary<(int Layer, string Name), LowRankPair> Adapter(DecoderWeights weights, int rank, bool sparse, Device device, List<Tensor> owned)
    {
        var pairs = new Dictionary<(int, string), LowRankPair>();
        for (int layer = 0; layer < weights.LayerCount; layer++)
        {
            for (int group = 0; group < 4; group++)
            {
                for (int part = 0; part < weights.PartRows[group].Count; part++)
                {
                    if (sparse && (layer + group + part) % 2 == 1)
                    {
                        continue;
                    }

                    long k = weights.Inputs[group];
                    Tensor a = (randn([rank, k], ScalarType.Float32, device) / Math.Sqrt(k)).to(ScalarType.BFloat16).DetachFromDisposeScope();
                    Tensor b = (randn([weights.PartRows[group][part], rank], ScalarType.Float32, device) * 0.05).to(ScalarType.BFloat16).DetachFromDisposeScope();
                    owned.Add(a);
                    owned.Add(b);
                    pairs[(layer, LlamaTensors.LinearGroups[group][part])] = new(a, b, 2);
                }
            }
        }

        return pairs;
    }

    private static LowRankPair? Find(Dictionary<(int Layer, string Name), LowRankPair> adapter, int layer, string name) => adapter.TryGetValue((layer, name), out LowRankPair pair) ? pair : null;

    // Prompts in one step, then in chunks beside decoding rows, then decode steps; logits of every step against a full pass in float32.
    private static int Check(Device device, Sizes s, bool nf4 = false, bool norms = false)
    {
        var owned = new List<Tensor>();
        using var scope = NewDisposeScope();
        random.manual_seed(5);
        DecoderWeights weights = Random(s, device, owned, 512, biases: s.Tied, nf4, norms);
        Dictionary<(int, string), LowRankPair>[] adapters = [Adapter(weights, 8, false, device, owned), Adapter(weights, 16, true, device, owned), Adapter(weights, 3, false, device, owned)];
        int[] slots = [-1, 0, 1, 2, 0, -1];
        int[] lengths = [5, 33, 64, 1, 200, 310];
        int faults = 0;
        foreach (bool graphs in (bool[])[false, true])
        {
            using var decoder = new FusedDecoder(weights, new DecoderOptions { Pages = 256, MaxLength = 512, MaxTokens = 1024, Graphs = graphs, MaxSequences = 16 }, device);
            for (int i = 0; i < adapters.Length; i++)
            {
                Dictionary<(int, string), LowRankPair> adapter = adapters[i];
                decoder.Adapters.Load(i, (layer, name) => Find(adapter, layer, name));
            }

            decoder.AdaptersChanged();
            var numbers = new Random(7);
            List<int>[] sequences = [.. lengths.Select(l => Enumerable.Range(0, l).Select(_ => numbers.Next((int)s.V)).ToList())];
            for (int i = 0; i < sequences.Length; i++)
            {
                // Pages in no order.
                decoder.SetPages(i, [.. Enumerable.Range(0, 32).Select(p => ((i * 32) + p) * 37 % 256)]);
            }

            double worst = 0;
            int wrong = 0;
            int ties = 0;
            void Compare(int[] which, int[] chosen)
            {
                Tensor logits = decoder.Logits(which.Length).@float();
                for (int i = 0; i < which.Length; i++)
                {
                    Tensor expected = Plain(weights, sequences[which[i]], slots[which[i]] < 0 ? null : adapters[slots[which[i]]]);
                    worst = Math.Max(worst, ((logits[i] - expected).norm() / expected.norm()).item<float>());
                    long best = logits[i].argmax().item<long>();
                    // Equal largest logits in bf16: any of them.
                    ties += best != chosen[i] ? 1 : 0;
                    wrong += logits[i][chosen[i]].item<float>() < logits[i].max().item<float>() ? 1 : 0;
                    sequences[which[i]].Add(chosen[i]);
                }
            }

            // All prompts but the last's second half; then that chunk beside a decode row of the others.
            DecoderRow[] Rows(int i, int from, int to) => [.. Enumerable.Range(from, to - from).Select(p => new DecoderRow(sequences[i][p], p, i, slots[i]))];
            DecoderRow[] first = [.. Enumerable.Range(0, 5).SelectMany(i => Rows(i, 0, lengths[i])), .. Rows(5, 0, 150)];
            int[] ends = [.. Enumerable.Range(0, 5).Select(i => lengths[..(i + 1)].Sum() - 1)];
            decoder.Run(first, ends);
            Compare([0, 1, 2, 3, 4], decoder.Read(5).Tokens);
            DecoderRow[] second = [.. Enumerable.Range(0, 5).SelectMany(i => Rows(i, sequences[i].Count - 1, sequences[i].Count)), .. Rows(5, 150, 310)];
            decoder.Run(second, [0, 1, 2, 3, 4, second.Length - 1]);
            Compare([0, 1, 2, 3, 4, 5], decoder.Read(6).Tokens);
            decoder.Begin([.. Enumerable.Range(0, 6).SelectMany(i => Rows(i, sequences[i].Count - 1, sequences[i].Count))]);
            for (int step = 0; step < 6; step++)
            {
                decoder.Next();
                Compare([0, 1, 2, 3, 4, 5], decoder.Read(6).Tokens);
            }

            bool good = worst < 0.05 && wrong == 0;
            faults += good ? 0 : 1;
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{{\"check\":\"{(good ? "ok" : "FAILED")}\",\"decode\":\"mixed\",\"head_norms\":{(norms ? "true" : "false")},\"base\":\"{(nf4 ? "nf4+dq" : "bf16")}\",\"head\":{s.E},\"group\":{s.H / s.K},\"graphs\":{(graphs ? "true" : "false")},\"worst_logit_error\":{worst:0.0000},\"not_largest\":{wrong},\"ties\":{ties}}}"));
        }

        owned.ForEach(t => t.Dispose());
        return faults;
    }

    // Draws at temperature 1 follow the softmax: frequencies of the likeliest tokens over many seeds.
    private static int CheckDraws(Device device)
    {
        var owned = new List<Tensor>();
        using var scope = NewDisposeScope();
        random.manual_seed(6);
        DecoderWeights weights = Random(new(1, 64, 2, 2, 32, 64, 64, false), device, owned, 64);
        using var decoder = new FusedDecoder(weights, new DecoderOptions { Pages = 64, MaxLength = 64, MaxTokens = 256, MaxSequences = 256 }, device);
        decoder.SetPages(0, [0, 1, 2, 3]);
        long[] counts = new long[64];
        Tensor p = zeros(64);
        const int Rounds = 200;
        for (uint round = 0; round < Rounds; round++)
        {
            decoder.Run([new DecoderRow(3, 0, 0, -1)], [.. new int[256]], [.. Enumerable.Repeat(1f, 256)], [.. Enumerable.Range(0, 256).Select(i => (round * 256) + (uint)i)]);
            foreach (int token in decoder.Read(256).Tokens)
            {
                counts[token]++;
            }

            p = decoder.Logits(1)[0].@float().softmax(0).cpu();
        }

        float[] expected = p.data<float>().ToArray();
        double n = 256.0 * Rounds;
        double chi = Enumerable.Range(0, 64).Sum(i => Math.Pow(counts[i] - (n * expected[i]), 2) / (n * expected[i]));
        // 63 degrees of freedom: mean 63, deviation 11.2.
        bool good = chi < 63 + (5 * 11.2);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{{\"check\":\"{(good ? "ok" : "FAILED")}\",\"decode\":\"draws\",\"chi_squared\":{chi:0.0},\"degrees\":63}}"));
        owned.ForEach(t => t.Dispose());
        return good ? 0 : 1;
    }

    // Logits [v] after a sequence, by plain operators in float32.
    private static Tensor Plain(DecoderWeights weights, List<int> sequence, Dictionary<(int Layer, string Name), LowRankPair>? adapter)
    {
        LlamaShape s = weights.Shape;
        long n = sequence.Count;
        Device device = weights.Embedding.device;
        Tensor Linear(Tensor x, int layer, int group)
        {
            Tensor y = x.matmul(weights.Matrices[layer][group].Values().t());
            long row = 0;
            for (int part = 0; part < weights.PartRows[group].Count; part++)
            {
                long rows = weights.PartRows[group][part];
                if (adapter is not null && Find(adapter, layer, LlamaTensors.LinearGroups[group][part]) is { } pair)
                {
                    y.narrow(1, row, rows).add_(x.matmul(pair.A.@float().t()).matmul(pair.B.@float().t()) * pair.Scaling);
                }

                row += rows;
            }

            return y;
        }

        Tensor Norm(Tensor x, Tensor w) => x * (x.pow(2).mean([-1L], keepdim: true) + s.Epsilon).rsqrt() * w.@float();
        Tensor cosines = weights.Cosines.narrow(0, 0, n).unsqueeze(1);
        Tensor sines = weights.Sines.narrow(0, 0, n).unsqueeze(1);
        Tensor Rope(Tensor x)
        {
            Tensor a = x.narrow(-1, 0, s.HeadSize / 2);
            Tensor b = x.narrow(-1, s.HeadSize / 2, s.HeadSize / 2);
            return cat([(a * cosines) - (b * sines), (b * cosines) + (a * sines)], -1);
        }

        Tensor seen = ones([n, n], ScalarType.Bool, device).tril();
        Tensor x = weights.Embedding.@float().index_select(0, tensor(sequence.Select(t => (long)t).ToArray(), device: device));
        for (int layer = 0; layer < weights.LayerCount; layer++)
        {
            int l = layer;
            Tensor qkv = Linear(Norm(x, weights.Norms[l].Attention), l, 0);
            qkv = (weights.Biases.Count > 0 ? qkv + weights.Biases[l].@float() : qkv).view(n, -1, s.HeadSize);
            Tensor Normed(Tensor x, bool query) => weights.HeadNorms.Count == 0 ? x : Norm(x, query ? weights.HeadNorms[l].Query : weights.HeadNorms[l].Key);
            Tensor q = Rope(Normed(qkv.narrow(1, 0, s.Heads), true)).transpose(0, 1);
            Tensor k = Rope(Normed(qkv.narrow(1, s.Heads, s.KeyHeads), false)).transpose(0, 1).repeat_interleave(s.Heads / s.KeyHeads, 0);
            Tensor v = qkv.narrow(1, s.Heads + s.KeyHeads, s.KeyHeads).transpose(0, 1).repeat_interleave(s.Heads / s.KeyHeads, 0);
            Tensor p = (q.matmul(k.transpose(-1, -2)) * s.AttentionScale).masked_fill(seen.logical_not(), float.NegativeInfinity).softmax(-1);
            x = x + Linear(p.matmul(v).transpose(0, 1).reshape(n, s.Heads * s.HeadSize), l, 1);
            Tensor gateUp = Linear(Norm(x, weights.Norms[l].Mlp), l, 2);
            x = x + Linear(nn.functional.silu(gateUp.narrow(1, 0, s.Inner)) * gateUp.narrow(1, s.Inner, s.Inner), l, 3);
        }

        return Norm(x[n - 1], weights.FinalNorm).matmul(weights.Head.@float().t());
    }

    internal static int Value(string[] args, string name, int otherwise) =>
        args.FirstOrDefault(a => a.StartsWith(name + "=", StringComparison.Ordinal)) is { } given ? int.Parse(given[(name.Length + 1)..], CultureInfo.InvariantCulture) : otherwise;

    private static int Time(Device device, string name, Sizes s, string[] args)
    {
        int requests = Value(args, "requests", 32);
        int count = Value(args, "adapters", 8);
        bool nf4 = args.Contains("nf4");
        var owned = new List<Tensor>();
        zeros(1, device: device).Dispose();
        (long Free, long Total) start = CudaDriver.Memory();
        using (var scope = NewDisposeScope())
        {
            DecoderWeights weights = Random(s, device, owned, 512, nf4: nf4);
            int pages = (Prompt + New + 15) / 16;
            var options = new DecoderOptions { Pages = requests * pages, MaxLength = 512, MaxTokens = Math.Max(1024, requests * Prompt), MaxSequences = requests, Graphs = !args.Contains("eager") };
            using var decoder = new FusedDecoder(weights, options, device);
            for (int i = 0; i < count; i++)
            {
                using var made = NewDisposeScope();
                var mine = new List<Tensor>();
                Dictionary<(int, string), LowRankPair> adapter = Adapter(weights, 16, false, device, mine);
                decoder.Adapters.Load(i, (layer, linear) => Find(adapter, layer, linear));
                mine.ForEach(t => t.Dispose());
            }

            decoder.AdaptersChanged();
            for (int i = 0; i < requests; i++)
            {
                decoder.SetPages(i, [.. Enumerable.Range(i * pages, pages)]);
            }

            CudaDriver.Check(CudaDriver.cuMemAllocHost(out nint host, 4096), "allocate pinned memory");
            var numbers = new Random(3);
            var rates = new List<double>();
            var steps = new List<double>();
            double prefill = 0;
            for (int round = 0; round < 5; round++)
            {
                int[][] prompts = [.. Enumerable.Range(0, requests).Select(_ => Enumerable.Range(0, Prompt).Select(_ => numbers.Next((int)s.V)).ToArray())];
                int Slot(int i) => count == 0 ? -1 : i % count;
                long began = Stopwatch.GetTimestamp();
                decoder.Run([.. prompts.SelectMany((p, i) => p.Select((t, j) => new DecoderRow(t, j, i, Slot(i))))], [.. Enumerable.Range(1, requests).Select(i => (i * Prompt) - 1)], new float[requests], new uint[requests]);
                int[] tokens = decoder.Read(requests).Tokens;
                prefill = Stopwatch.GetElapsedTime(began).TotalSeconds;
                decoder.Begin([.. Enumerable.Range(0, requests).Select(i => new DecoderRow(tokens[i], Prompt, i, Slot(i)))], new float[requests], new uint[requests]);
                long sum = 0;
                began = Stopwatch.GetTimestamp();
                for (int step = 1; step < New; step++)
                {
                    // The tokens of a step are read while the next one runs, as a server that streams them does.
                    decoder.Next();
                    decoder.ReadLater(host);
                    sum += Marshal.ReadInt32(host);
                }

                decoder.Synchronize();
                double seconds = Stopwatch.GetElapsedTime(began).TotalSeconds;
                GC.KeepAlive(sum);
                rates.Add(requests * (New - 1) / seconds);
                steps.Add(seconds * 1000 / (New - 1));
            }

            // The first rounds capture graphs.
            double rate = rates[2..].Order().ElementAt(1);
            (long Free, long Total) end = CudaDriver.Memory();
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{{\"ours\":\"decode{(options.Graphs ? "+graphs" : "")}\",\"model\":\"{name}\",\"base\":\"{(nf4 ? "nf4+dq" : "bf16")}\",\"requests\":{requests},\"adapters\":{count},\"rank\":16,\"prompt\":{Prompt},\"new\":{New},\"decode_tok_s\":{rate:0},\"step_ms\":{steps[2..].Order().ElementAt(1):0.000},\"prefill_s\":{prefill:0.0000},\"runs\":[{string.Join(",", rates.Select(r => r.ToString("0", CultureInfo.InvariantCulture)))}],\"adapter_mb\":{decoder.Adapters.Bytes / 1e6:0.0},\"device_gib_used\":{(start.Free - end.Free) / (double)(1 << 30):0.00}}}"));
            _ = CudaDriver.cuMemFreeHost(host);
        }

        owned.ForEach(t => t.Dispose());
        return 0;
    }
}

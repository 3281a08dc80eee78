using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Serving;
using LoraSharp.Serving.Cuda;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Serving;

/// <summary>
/// The engine over a decoder that computes rows by pages and slots, as the GPU's does: here one that keeps the tokens of
/// each page and asks the plain model. What it is told must be right for the texts to come out the same.
/// </summary>
public sealed class CudaStepRunnerTests
{
    private const string Model = "models/llama";

    // A and B alone, on the model's linears: ranks and scalings of their own, all or some of the layers.
    private static readonly string[] Adapters = ["all_linear", "plain_qv", "rslora", "patterns", "layers_to_transform"];

    [Fact]
    public async Task Texts_equal_the_plain_generators()
    {
        await using var bench = new EngineBench(Fixtures.Path(Model), Adapters);
        var numbers = new Random(11);
        Job[] jobs = [.. Enumerable.Range(0, 24).Select(i => new Job(i % 4 == 0 ? null : Adapters[i % Adapters.Length], [.. Enumerable.Range(0, 1 + numbers.Next(40)).Select(_ => numbers.Next(bench.Vocabulary))], 1 + numbers.Next(12), numbers.Next(6)))];
        IReadOnlyList<int>[] expected = [.. jobs.Select(bench.Expected)];
        var limits = new EngineLimits { MaxBatch = 8, StepTokens = 24, MaxLength = 64, BlockSize = 4, MaxLoadedAdapters = 2 };
        TokenKeeper? keeper = null;
        using (InferenceEngine engine = Engine(bench, limits, () => keeper = new TokenKeeper(bench.Served, slots: 2)))
        {
            foreach (string name in Adapters)
            {
                await engine.RegisterAsync(name, Fixtures.Path("adapters/" + name));
            }

            IReadOnlyList<int>[] got = await Task.WhenAll(jobs.Select(j => EngineBench.RunAsync(engine, j)));
            Assert.All(jobs.Select((_, i) => i), i => Assert.Equal(expected[i], got[i]));
        }

        Assert.True(keeper!.Runs > 24, $"{keeper.Runs} steps went through the decoder");
        Assert.True(keeper.Loads >= Adapters.Length, $"{keeper.Loads} adapters were put into the two slots");
        Assert.InRange(keeper.Rows, 1, 24);
    }

    [Fact]
    public async Task What_the_decoder_does_not_know_goes_the_plain_way()
    {
        await using var bench = new EngineBench(Fixtures.Path(Model), ["dora"]);
        Job job = new("dora", [5, 9, 11, 3], 6, 0);
        TokenKeeper? keeper = null;
        using InferenceEngine engine = Engine(bench, new EngineLimits { MaxLength = 64 }, () => keeper = new TokenKeeper(bench.Served, slots: 2));
        await engine.RegisterAsync("dora", Fixtures.Path("adapters/dora"));
        Assert.Equal(bench.Expected(job), await EngineBench.RunAsync(engine, job));
        Assert.Equal(0, keeper!.Runs);
    }

    [Fact]
    public async Task A_decoder_that_cannot_be_made_is_said_once_and_done_without()
    {
        await using var bench = new EngineBench(Fixtures.Path(Model), []);
        Job job = new(null, [5, 9, 11, 3], 6, 0);
        var notes = new List<string>();
        using InferenceEngine engine = Engine(bench, new EngineLimits { MaxLength = 64 }, () => throw new LoraSharpException("no compiler"), notes.Add);
        Assert.Equal(bench.Expected(job), await EngineBench.RunAsync(engine, job));
        Assert.Equal("Decoding goes by libtorch's operators: no compiler", Assert.Single(notes));
    }

    [Fact]
    public async Task Without_a_gpu_nothing_is_said_about_it()
    {
        await using var bench = new EngineBench(Fixtures.Path(Model), []);
        var notes = new List<string>();
        Job job = new(null, [5, 9, 11, 3], 6, 0);
        using InferenceEngine engine = bench.Served.CreateEngine(new EngineLimits { MaxLength = 64 }, notes.Add);
        Assert.Equal(bench.Expected(job), await EngineBench.RunAsync(engine, job));
        Assert.Empty(notes);
        Assert.Equal("it runs on a GPU", CudaStepRunner.Obstacle(bench.Served.Model, bench.Served.Adapters, 128));
    }

    private static InferenceEngine Engine(EngineBench bench, EngineLimits limits, Func<IRowDecoder> create, Action<string>? notes = null)
    {
        CausalLanguageModel model = bench.Served.Model;
        return new InferenceEngine(model, bench.Served.Adapters, null, name => AdapterFolder.Open(name), limits, 0, null, (plain, cache, _) =>
            new CudaStepRunner(plain, create, model.Config.Names.Layers, model.LayerCount, cache.BlockSize, notes ?? (_ => { })));
    }

    // Pages hold tokens instead of keys and values.
    private sealed class TokenKeeper(LoadedModel served, int slots) : IRowDecoder
    {
        private readonly Dictionary<(int Page, int Place), int> _tokens = [];
        private readonly Func<int, string, LowRankPair?>[] _adapters = new Func<int, string, LowRankPair?>[slots];
        private int[] _pages = [];
        private int _width;
        private Tensor? _logits;

        public int MaxTokens => 1000;

        public int MaxSequences => 64;

        public int MaxRank => 4096;

        public int Slots => slots;

        public int Runs { get; private set; }

        public int Loads { get; private set; }

        public int Rows { get; private set; }

        public void LoadAdapter(int slot, Func<int, string, LowRankPair?> find)
        {
            _adapters[slot] = find;
            Loads++;
        }

        public void SetPages(int[] pages, int width) => (_pages, _width) = (pages, width);

        public void Run(ReadOnlySpan<DecoderRow> rows, ReadOnlySpan<int> choosing, ReadOnlySpan<float> temperatures = default, ReadOnlySpan<uint> seeds = default)
        {
            Runs++;
            Rows = rows.Length;
            foreach (DecoderRow row in rows)
            {
                _tokens[(Page(row), row.Position % 4)] = row.Token;
            }

            using var scope = NewDisposeScope();
            var all = new List<Tensor>();
            foreach (int index in choosing)
            {
                DecoderRow row = rows[index];
                long[] ids = [.. Enumerable.Range(0, row.Position + 1).Select(p => (long)_tokens[(Page(row with { Position = p }), p % 4)])];
                using IDisposable selected = served.Adapters.Use(AdapterSelection.ForRows([new RowSegment(ids.Length, row.Slot < 0 ? null : Known(row.Slot))]));
                Tensor hidden = served.Model.Hidden(tensor(ids).unsqueeze(0), arange(ids.Length, ScalarType.Int64).unsqueeze(0), new PaddedAttention(null));
                using IDisposable one = served.Adapters.Use(AdapterSelection.ForRows([new RowSegment(1, row.Slot < 0 ? null : Known(row.Slot))]));
                all.Add(served.Model.Logits(hidden.narrow(1, ids.Length - 1, 1)).view(1, -1));
            }

            _logits?.Dispose();
            _logits = all.Count == 0 ? null : cat(all, 0).DetachFromDisposeScope();
        }

        public Tensor Logits(int count) => _logits!.narrow(0, 0, count);

        public void Dispose() => _logits?.Dispose();

        private int Page(DecoderRow row) => _pages[(row.Sequence * _width) + (row.Position / 4)];

        // The adapter whose A the runner hands out.
        private LoraAdapter Known(int slot)
        {
            (int layer, string name) = Enumerable.Range(0, served.Model.LayerCount).SelectMany(l => LlamaTensors.LinearGroups.SelectMany(g => g).Select(n => (l, n))).First(p => _adapters[slot](p.l, p.n) is not null);
            Tensor a = _adapters[slot](layer, name)!.Value.A;
            return served.Adapters.Adapters.Values.First(x => x.Modules.Values.Any(m => ReferenceEquals(m.A, a)));
        }
    }
}

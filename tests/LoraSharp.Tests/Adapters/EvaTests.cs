using CsCheck;
using LoraSharp.Adapters;
using LoraSharp.Adapters.Initialization;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

public sealed class EvaTests
{
    private const string Q = "model.layers.0.self_attn.q_proj", K = "model.layers.0.self_attn.k_proj";

    [Fact]
    public void Without_data_it_would_train_nothing_and_is_refused()
    {
        using var model = new AdaptedModel("models/llama");
        Assert.Contains("eva", Assert.Throws<LoraSharpException>(() => model.Adapters.Create(new LoraOptions { Init = "eva" }, seed: 1)).Message, StringComparison.Ordinal);
        Assert.Empty(model.Adapters.Adapters);
    }

    [Fact]
    public void Batch_by_batch_gives_the_directions_of_all_rows_together()
    {
        Gen.Select(Gen.Int[2, 5], Gen.Int[1, 4], Gen.Int[0, 1 << 20]).Sample(
            one =>
            {
                (int rank, int batches, int seed) = one;
                using var scope = NewDisposeScope();
                using var generator = new Generator((ulong)seed, CPU);
                // Rows of the wanted rank, of falling strength, around a mean.
                Tensor basis = randn(rank, 24, generator: generator) * tensor([.. Enumerable.Range(0, rank).Select(i => MathF.Pow(3, -i))]).unsqueeze(1);
                Tensor[] rows = [.. Enumerable.Range(0, batches).Select(i => randn(30 + i, rank, generator: generator).mm(basis) + (2f + i))];
                using var svd = new IncrementalSvd(rank, generator);
                Array.ForEach(rows, svd.Add);
                Tensor all = cat(rows, 0);
                // The shift of the means between batches is a direction of its own.
                Tensor centred = all - all.mean([0]);
                (_, Tensor s, Tensor vt) = linalg.svd(centred, fullMatrices: false);
                if (batches == 1)
                {
                    Assert.True((svd.Values! - s.narrow(0, 0, rank)).abs().max().item<float>() < 1e-3 * s[0].item<float>());
                }

                double cosine = (svd.Directions![0] * vt[0]).sum().abs().item<float>();
                Assert.InRange(cosine, 0.999, 1.001);
                Assert.InRange(svd.Explained.Sum(), 0.9 * (s.narrow(0, 0, rank).square().sum() / s.square().sum()).item<float>(), 1.0001);
                return true;
            },
            iter: 20,
            threads: 1);
    }

    [Fact]
    public void A_holds_the_strongest_directions_of_the_inputs_and_ranks_go_where_they_explain_most()
    {
        using var model = new AdaptedModel("models/llama");
        using var scope = NewDisposeScope();
        var options = new LoraOptions { Rank = 4, Alpha = 8, Init = "eva" };
        using InputDirections directions = Watched(model, options, new EvaOptions { MaxBatches = 1 }, out Dictionary<string, Tensor> inputs);
        LoraAdapter adapter = model.Adapters.Create(options, seed: 1, directions: directions);

        // One budget for all.
        AdapterModule[] modules = [.. adapter.Modules.Values];
        Assert.Equal(4 * 14, modules.Sum(m => m.Rank));
        Assert.Contains(modules, m => m.Rank != 4);
        Assert.All(modules, m => Assert.InRange(m.Rank, 1, 8));
        Assert.All(modules, m => Assert.Equal(2, m.Scaling, 9));
        foreach (AdapterModule module in modules)
        {
            Tensor rows = inputs[module.Name];
            (_, Tensor s, Tensor vt) = linalg.svd(rows - rows.mean([0]), fullMatrices: false);
            // Eight of them are close to each other in strength, so the space they span is compared.
            Tensor inside = vt.narrow(0, 0, 8).mm(module.A!.t());
            Assert.InRange(inside.square().sum(dim: 0L).min().item<float>(), 0.9f, 1.0001f);
            Assert.Equal(1, module.A!.square().sum(1).min().item<float>(), 4);
            Assert.Equal(0, module.B!.count_nonzero().item<long>());
        }

        // q and k see the same.
        int common = Math.Min(adapter.Modules[Q].Rank, adapter.Modules[K].Rank);
        Assert.True(adapter.Modules[Q].A!.narrow(0, 0, common).Equals(adapter.Modules[K].A!.narrow(0, 0, common)));
        Assert.Contains(adapter.Warnings, w => w.Contains("still move", StringComparison.Ordinal));

        using var folder = new TemporaryFolder();
        AdapterWriter.Write(adapter, folder.Path);
        using AdapterFolder saved = AdapterFolder.Open(folder.Path);
        Assert.Equal("eva", saved.Config.InitLoraWeights);
        Assert.Equal(2.0, (double)saved.Config.Others["eva_config"]!["rho"]!);
        LoraAdapter loaded = model.Adapters.Load(saved, "loaded");
        Assert.Equal(modules.Select(m => (m.Name, m.Rank, m.Scaling)), loaded.Modules.Values.OrderBy(m => Array.FindIndex(modules, o => o.Name == m.Name)).Select(m => (m.Name, m.Rank, m.Scaling)));
    }

    [Fact]
    public void Without_redistribution_every_layer_keeps_its_rank_and_steady_directions_end_the_pass()
    {
        using var model = new AdaptedModel("models/llama");
        using var scope = NewDisposeScope();
        var options = new LoraOptions { Rank = 2, Init = "eva", Targets = ModuleSelector.List(["q_proj", "embed_tokens"]), RankPattern = new Dictionary<string, int> { ["layers.1.self_attn.q_proj"] = 3 } };
        using InputDirections directions = Watched(model, options, new EvaOptions { Rho = 1, Tau = 0.9 }, out _);
        Assert.True(directions.IsConverged);
        LoraAdapter adapter = model.Adapters.Create(options, seed: 1, directions: directions);
        Assert.Equal(2, adapter.Modules[Q].Rank);
        Assert.Equal(3, adapter.Modules["model.layers.1.self_attn.q_proj"].Rank);
        Assert.Contains(adapter.Warnings, w => w.Contains("embed_tokens", StringComparison.Ordinal));
    }

    [Fact]
    public void Settings_out_of_range_are_named_together()
    {
        string message = Assert.Throws<LoraSharpException>(new EvaOptions { Rho = 0.5, Tau = 2 }.Validate).Message;
        Assert.Contains("0.5", message, StringComparison.Ordinal);
        Assert.Contains("found 2", message, StringComparison.Ordinal);
    }

    // The same rows again and again, each of them counting.
    private static InputDirections Watched(AdaptedModel model, LoraOptions options, EvaOptions eva, out Dictionary<string, Tensor> inputs)
    {
        using Tensor ids = FlatModel.Read("mixed_batch/golden.safetensors", "input_ids");
        long positions = ids.NumberOfElements;
        var seen = new Dictionary<string, Tensor>(StringComparer.Ordinal);
        var directions = new InputDirections(model.Adapters, options, eva, seed: 1);
        while (!directions.IsComplete)
        {
            using IDisposable watching = directions.Watch(arange(positions, ScalarType.Int64), positions);
            Action<string, Tensor> look = model.Adapters.Watcher!;
            model.Adapters.Watcher = (path, x) =>
            {
                look(path, x);
                seen[path] = x.reshape(-1, x.shape[^1]).clone().DetachFromDisposeScope();
            };
            using Tensor logits = model.Logits(ids);
        }

        inputs = seen;
        return directions;
    }
}

using System.Text.Json;
using CsCheck;
using LoraSharp.Adapters;
using LoraSharp.Adapters.Combining;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

/// <summary>Adapters on whole models against PEFT.</summary>
public sealed class AdapterModelTests
{
    public static TheoryData<string> Folders => AdapterFileTests.Folders;

    [Theory]
    [MemberData(nameof(Folders))]
    public void Logits_with_and_without_the_adapter_are_pefts(string name)
    {
        using var model = new AdaptedModel(AdaptedModel.BaseOf(name));
        using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
        model.Adapters.Load(folder);
        double tolerance = Tolerance(name);
        string golden = $"adapters/{name}/golden.safetensors";
        using Tensor ids = FlatModel.Read(golden, "input_ids");
        // Under these PEFT's own base is no longer the base when the adapter is off; ours is, bit by bit.
        bool changesPeftsBase = name is "pissa" or "olora" or "bias_lora_only";
        using Tensor before = model.Logits(ids);
        Assert.True(changesPeftsBase || model.Difference(ids, golden, "base_logits") < 1e-4, "base before");
        model.Adapters.Select(AdapterSet.DefaultName);
        Assert.True(model.Difference(ids, golden, "adapter_logits") < tolerance, $"adapter {model.Difference(ids, golden, "adapter_logits")}");
        using (model.Adapters.Disable())
        {
            using Tensor disabled = model.Logits(ids);
            Assert.True(before.Equals(disabled), "base while disabled");
        }

        Assert.True(model.Difference(ids, golden, "adapter_logits") < tolerance, "adapter again");
        model.Adapters.Remove(AdapterSet.DefaultName);
        using Tensor after = model.Logits(ids);
        Assert.True(before.Equals(after), "base after");
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void Logits_of_the_merged_model_are_pefts(string name)
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "merged");
        using (ModelSource source = ModelSource.OpenFolder(Fixtures.Path(AdaptedModel.BaseOf(name))))
        using (AdapterFolder adapter = AdapterFolder.Open(Fixtures.Path("adapters/" + name)))
        {
            AdapterMerger.Merge(source, [new(adapter)], output, new MergeOptions());
        }

        using var model = new AdaptedModel(output);
        string golden = $"adapters/{name}/golden.safetensors";
        using Tensor ids = FlatModel.Read(golden, "input_ids");
        Assert.True(model.Difference(ids, golden, "merged_logits") < 2 * Tolerance(name), $"{model.Difference(ids, golden, "merged_logits")}");
        using Tensor adapted = FlatModel.Read(golden, "adapter_logits");
        using Tensor largest = adapted.abs().max();
        Assert.True(model.Difference(ids, golden, "adapter_logits") < 2 * Tolerance(name) * Math.Max(1, largest.item<float>()));
    }

    // A GPU adds in another order than the reference's CPU, which shows where factors as large as this one's nearly cancel.
    private static double Tolerance(string name) => TestDevice.Current.type == TorchSharp.DeviceType.CUDA && name == "gpt2_conv1d" ? 5e-4 : 1e-4;

    [Fact]
    public void Rows_of_one_batch_use_different_adapters()
    {
        using var model = new AdaptedModel("models/llama");
        foreach (string name in (string[])["a", "b", "c"])
        {
            using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("mixed_batch/" + name));
            model.Adapters.Load(folder, name);
        }

        using Tensor ids = FlatModel.Read("mixed_batch/golden.safetensors", "input_ids");
        string[] rows = JsonSerializer.Deserialize<string[]>(File.ReadAllText(Fixtures.Path("mixed_batch/rows.json")))!;
        model.Adapters.Selection = AdapterSelection.ForRows(rows.Select(r => new RowSegment(ids.shape[1], r == "__base__" ? null : model.Adapters[r])));
        Assert.True(model.Difference(ids, "mixed_batch/golden.safetensors", "logits") < 1e-4, $"{model.Difference(ids, "mixed_batch/golden.safetensors", "logits")}");
    }

    [Theory]
    [InlineData("linear")]
    [InlineData("cat")]
    [InlineData("svd")]
    [InlineData("ties")]
    [InlineData("ties_svd")]
    [InlineData("magnitude_prune")]
    [InlineData("magnitude_prune_svd")]
    public void Logits_of_combinations_are_pefts(string method)
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "out");
        var options = new CombineOptions { Method = CombineOptions.Parse(method) };
        options = options with { Density = options.Prunes ? 0.5 : null, Rank = options.Cuts ? 6 : null };
        double[] weights = [0.7, 0.5, -0.3];
        AdapterFolder[] adapters = [.. "abc".Select(n => AdapterFolder.Open(Fixtures.Path("combine/" + n)))];
        AdapterCombiner.Combine([.. adapters.Select((a, i) => new CombinedAdapter(a, weights[i]))], options, output);
        Array.ForEach(adapters, a => a.Dispose());
        using var model = new AdaptedModel("models/llama");
        using AdapterFolder combined = AdapterFolder.Open(output);
        model.Adapters.Load(combined);
        model.Adapters.Select(AdapterSet.DefaultName);
        using Tensor ids = FlatModel.Read("combine/golden.safetensors", "input_ids");
        Assert.True(model.Difference(ids, "combine/golden.safetensors", "logits." + method) < 5e-4, $"{model.Difference(ids, "combine/golden.safetensors", "logits." + method)}");
    }

    [Fact]
    public void Weighted_adapters_add_up_to_their_cat_combination()
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "out");
        using AdapterFolder a = AdapterFolder.Open(Fixtures.Path("mixed_batch/a"));
        using AdapterFolder b = AdapterFolder.Open(Fixtures.Path("mixed_batch/b"));
        AdapterCombiner.Combine([new(a, 0.6), new(b, -0.4)], new CombineOptions { Method = CombineMethod.Cat }, output);
        using AdapterFolder both = AdapterFolder.Open(output);
        using var model = new AdaptedModel("models/llama");
        model.Adapters.Load(a, "a");
        model.Adapters.Load(b, "b");
        model.Adapters.Load(both, "both");
        using Tensor ids = FlatModel.Read("mixed_batch/golden.safetensors", "input_ids");
        using var scope = NewDisposeScope();
        model.Adapters.Select([("a", 0.6), ("b", -0.4)]);
        Tensor mixed = model.Logits(ids);
        model.Adapters.Select("both");
        Assert.True((mixed - model.Logits(ids)).abs().max().item<float>() < 2e-5);
    }

    [Fact]
    public void A_new_adapter_changes_nothing_and_every_matrix_gets_a_gradient()
    {
        foreach (LoraOptions options in (LoraOptions[])[
            new() { Rank = 4 }, new() { Rank = 4, UseDora = true }, new() { Rank = 4, Init = "pissa" }, new() { Rank = 4, Init = "olora" }, new() { Rank = 4, Init = "pissa", UseDora = true, UseRsLora = true }, new() { Rank = 4, Init = "orthogonal" },
            new() { Rank = 4, Targets = ModuleSelector.List(["embed_tokens", "lm_head", "q_proj"]) },
            new() { Rank = 4, Targets = ModuleSelector.List(["q_proj"]), ModulesToSave = ["lm_head", "norm"], TrainableTokens = new Dictionary<string, IReadOnlyList<long>> { ["embed_tokens"] = [3, 4, 5, 6] } }])
        {
            using var model = new AdaptedModel("models/llama");
            using Tensor ids = FlatModel.Read("mixed_batch/golden.safetensors", "input_ids");
            using var scope = NewDisposeScope();
            Tensor before = model.Logits(ids).detach();
            LoraAdapter adapter = model.Adapters.Create(options, seed: 5);
            Tensor after = model.Logits(ids, grad: true);
            Assert.True((before - after).abs().max().item<float>() < 2e-5, options.Init);
            after.square().mean().backward();
            // A of an untouched B gets no gradient yet; everything else does.
            foreach (AdapterModule module in adapter.Modules.Values)
            {
                foreach ((string key, AdapterPart part, Tensor value) in module.Parts)
                {
                    bool zeroAtStart = options.Init == "true" && part is AdapterPart.LoraA or AdapterPart.EmbeddingB;
                    Assert.True(zeroAtStart || value.grad!.abs().max().item<float>() > 0, key);
                }
            }

            Assert.All(adapter.Parameters.Keys, n => Assert.True(adapter.Live[n].grad!.abs().max().item<float>() > 0, n));
        }
    }

    [Fact]
    public void Norms_saved_in_full_are_swapped_in_and_out()
    {
        using var model = new AdaptedModel("models/llama");
        using Tensor ids = FlatModel.Read("mixed_batch/golden.safetensors", "input_ids");
        using var scope = NewDisposeScope();
        Tensor before = model.Logits(ids);
        LoraAdapter adapter = model.Adapters.Create(new LoraOptions { Targets = ModuleSelector.List(["q_proj"]), ModulesToSave = ["input_layernorm"] }, 1);
        using (no_grad())
        {
            adapter.Live.Values.First().mul_(1.5);
        }

        Tensor changed = model.Logits(ids);
        Assert.True((before - changed).abs().max().item<float>() > 1e-2);
        using (model.Adapters.Disable())
        {
            Assert.True(before.Equals(model.Logits(ids)));
        }

        Assert.True(changed.Equals(model.Logits(ids)));
        using var folder = new TemporaryFolder();
        AdapterWriter.Write(adapter, folder.Path);
        using AdapterFolder saved = AdapterFolder.Open(folder.Path);
        model.Adapters.Load(saved, "saved");
        model.Adapters.Select("saved");
        Assert.True(changed.Equals(model.Logits(ids)));
        Assert.Throws<LoraSharpException>(() => model.Adapters.Select("saved", 0.5));
    }

    [Fact]
    public void Routed_rows_equal_each_adapter_alone()
    {
        using var model = new AdaptedModel("models/llama");
        foreach (string name in (string[])["plain_qv", "dora", "embed_lora", "modules_to_save"])
        {
            using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
            model.Adapters.Load(folder, name);
        }

        using Tensor ids = FlatModel.Read("mixed_batch/golden.safetensors", "input_ids");
        string?[] names = ["plain_qv", "dora", "embed_lora", "modules_to_save", null];
        Gen.Int[0, 4].Array[6].Sample(
            choice =>
            {
                using var scope = NewDisposeScope();
                LoraAdapter? Adapter(int i) => names[choice[i]] is { } n ? model.Adapters[n] : null;
                model.Adapters.Selection = AdapterSelection.ForRows(choice.Select((_, i) => new RowSegment(ids.shape[1], Adapter(i))));
                Tensor routed = model.Logits(ids);
                for (int i = 0; i < choice.Length; i++)
                {
                    model.Adapters.Selection = Adapter(i) is { } adapter ? AdapterSelection.ForAll([new(adapter)]) : AdapterSelection.None;
                    Tensor alone = model.Logits(ids.narrow(0, i, 1));
                    if ((routed.narrow(0, i, 1) - alone).abs().max().item<float>() > 2e-5)
                    {
                        return false;
                    }
                }

                return true;
            },
            iter: 8,
            threads: 1);
    }

    [Fact]
    public void Dropout_repeats_for_a_micro_batch_and_is_off_outside_training()
    {
        using var model = new AdaptedModel("models/llama");
        LoraAdapter adapter = model.Adapters.Create(new LoraOptions { Rank = 4, Dropout = 0.3, RankDropout = 0.2, Init = "false" }, 1);
        using Tensor ids = FlatModel.Read("mixed_batch/golden.safetensors", "input_ids");
        using var scope = NewDisposeScope();
        Tensor calm = model.Logits(ids);
        model.Adapters.Training = true;
        model.Adapters.Dropout.Seed = 42;
        model.Adapters.Dropout.MicroBatch = 7;
        Tensor first = model.Logits(ids);
        Assert.True(first.Equals(model.Logits(ids)));
        Assert.False(first.Equals(calm));
        model.Adapters.Dropout.MicroBatch = 8;
        Assert.False(first.Equals(model.Logits(ids)));
        model.Adapters.Training = false;
        Assert.True(calm.Equals(model.Logits(ids)));
        Assert.Equal(0.3, adapter.Config.Dropout);
    }

    [Fact]
    public void Switching_loading_and_removing_leaves_no_tensor_behind()
    {
        using var model = new AdaptedModel("models/llama");
        using Tensor ids = FlatModel.Read("mixed_batch/golden.safetensors", "input_ids");
        void Round()
        {
            foreach (string name in (string[])["all_linear", "dora", "pissa", "embed_lora", "modules_to_save", "trainable_tokens"])
            {
                using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
                model.Adapters.Load(folder, name);
                model.Adapters.Select(name);
                model.Logits(ids).Dispose();
                model.Adapters.Remove(name);
            }
        }

        Round();
        long before = Tensor.TotalCount;
        Round();
        Assert.Equal(before, Tensor.TotalCount);
    }

    [Fact]
    public void Bfloat16_bases_take_float32_factors()
    {
        using var model = new AdaptedModel("models/llama", ScalarType.BFloat16);
        using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/all_linear"));
        model.Adapters.Load(folder);
        model.Adapters.Select(AdapterSet.DefaultName);
        using Tensor ids = FlatModel.Read("adapters/all_linear/golden.safetensors", "input_ids");
        using var scope = NewDisposeScope();
        Tensor logits = model.Logits(ids);
        Assert.Equal(ScalarType.BFloat16, logits.dtype);
        Tensor expected = FlatModel.Read("adapters/all_linear/golden.safetensors", "adapter_logits");
        Assert.True(((logits.to(ScalarType.Float32) - expected).abs().max() / expected.abs().max()).item<float>() < 0.08);
    }

    [Fact]
    public void Trained_tokens_reach_a_tied_head()
    {
        using var model = new AdaptedModel("models/qwen3");
        LoraAdapter adapter = model.Adapters.Create(new LoraOptions { Targets = ModuleSelector.List(["q_proj"]), TrainableTokens = new Dictionary<string, IReadOnlyList<long>> { ["embed_tokens"] = [7, 11] } }, 1);
        Assert.Contains(adapter.Warnings, w => w.Contains("shares its weight", StringComparison.Ordinal));
        using Tensor ids = tensor(new long[,] { { 4, 5, 7, 9 } });
        using var scope = NewDisposeScope();
        Tensor before = model.Logits(ids);
        using (no_grad())
        {
            adapter.Modules["model.embed_tokens"].TokenRows!.mul_(2);
        }

        Tensor after = model.Logits(ids);
        // The first two tokens come before the changed one: their logits change for the trained rows alone, by the factor.
        Assert.True((after[0, 0, 7] - (2 * before[0, 0, 7])).abs().item<float>() < 1e-4);
        Assert.True((after[0, 0, 8] - before[0, 0, 8]).abs().item<float>() < 1e-5);
        using var folder = new TemporaryFolder();
        AdapterWriter.Write(adapter, Path.Combine(folder.Path, "a"));
        using (ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/qwen3")))
        using (AdapterFolder saved = AdapterFolder.Open(Path.Combine(folder.Path, "a")))
        {
            AdapterMerger.Merge(source, [new(saved)], Path.Combine(folder.Path, "m"), new MergeOptions());
        }

        using var merged = new AdaptedModel(Path.Combine(folder.Path, "m"));
        Assert.True((merged.Logits(ids) - after).abs().max().item<float>() < 1e-4);
    }

    [Theory]
    [InlineData("embed_tokens")]
    [InlineData("lm_head")]
    public void Merging_one_side_of_a_tied_pair_keeps_the_answers(string target)
    {
        using var model = new AdaptedModel("models/qwen3");
        LoraAdapter adapter = model.Adapters.Create(new LoraOptions { Rank = 4, Targets = ModuleSelector.List([target]) }, 1);
        using var scope = NewDisposeScope();
        using (no_grad())
        {
            foreach (AdapterModule module in adapter.Modules.Values)
            {
                module.A!.normal_(0, 0.2);
                module.B!.normal_(0, 0.2);
            }
        }

        using Tensor ids = tensor(new long[,] { { 4, 5, 7, 9 } });
        Tensor adapted = model.Logits(ids);
        using var folder = new TemporaryFolder();
        AdapterWriter.Write(adapter, Path.Combine(folder.Path, "a"));
        using (ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/qwen3")))
        using (AdapterFolder saved = AdapterFolder.Open(Path.Combine(folder.Path, "a")))
        {
            MergeReport report = AdapterMerger.Merge(source, [new(saved)], Path.Combine(folder.Path, "m"), new MergeOptions());
            Assert.NotEmpty(report.Notes);
        }

        using var merged = new AdaptedModel(Path.Combine(folder.Path, "m"));
        Assert.True((merged.Logits(ids) - adapted).abs().max().item<float>() < 1e-4);
    }
}

/// <summary>A fixture's model built for adapters.</summary>
internal sealed class AdaptedModel : IDisposable
{
    private readonly ModelSource _source;
    private readonly CausalLanguageModel _model;

    public AdaptedModel(string folder, ScalarType? dtype = null, bool acceptOtherBases = false)
    {
        _source = ModelSource.OpenFolder(Path.IsPathRooted(folder) ? folder : Fixtures.Path(folder));
        Adapters = new AdapterSet { AcceptOtherBases = acceptOtherBases };
        _model = ModelLoader.Load(_source, new LoraLinearFactory(Adapters, new DenseLinearFactory()), dtype ?? ScalarType.Float32, TestDevice.Current);
    }

    public AdapterSet Adapters { get; }

    public CausalLanguageModel Model => _model;

    public static string BaseOf(string adapter) => File.ReadAllText(Path.Combine(Fixtures.Path("adapters/" + adapter), "base_model.txt")).Trim();

    public Tensor Logits(Tensor ids, bool grad = false)
    {
        using IDisposable mode = grad ? enable_grad() : no_grad();
        using var scope = NewDisposeScope();
        using var attention = new PaddedAttention();
        Device device = _model.Device;
        return _model.Forward(ids.to(device), arange(ids.shape[1], ScalarType.Int64, device).unsqueeze(0), attention).cpu().MoveToOuterDisposeScope();
    }

    public float Difference(Tensor ids, string golden, string name)
    {
        using var scope = NewDisposeScope();
        return (Logits(ids) - FlatModel.Read(golden, name)).abs().max().item<float>();
    }

    public void Dispose()
    {
        Adapters.Dispose();
        _model.Dispose();
        _source.Dispose();
    }
}

/// <summary>Variants that no fixture holds, against themselves: as an adapter, saved and loaded, and merged.</summary>
public sealed class AdapterVariantTests
{
    public static TheoryData<string, string> Variants => new()
    {
        { "models/llama", "dora embedding" },
        { "models/gpt2", "bias all" },
        { "models/gpt2", "saved conv" },
        { "models/qwen2", "lora bias" },
        { "models/llama", "saved block" },
        { "models/gpt2", "dora conv rslora" },
        { "models/gemma2", "embedding" },
        { "models/llama", "false" },
    };

    private static LoraOptions Options(string variant) => variant switch
    {
        "dora embedding" => new() { Rank = 4, UseDora = true, Targets = ModuleSelector.List(["embed_tokens", "lm_head", "v_proj"]) },
        "bias all" => new() { Rank = 4, Bias = "all", Targets = ModuleSelector.List(["c_attn"]) },
        "saved conv" => new() { Rank = 4, Targets = ModuleSelector.List(["c_attn"]), ModulesToSave = ["mlp.c_fc", "ln_f"] },
        "lora bias" => new() { Rank = 4, LoraBias = true, Targets = ModuleSelector.List(["q_proj"]) },
        "saved block" => new() { Rank = 4, Targets = ModuleSelector.List(["q_proj"]), ModulesToSave = ["layers.1.mlp", "norm"] },
        "dora conv rslora" => new() { Rank = 4, UseDora = true, UseRsLora = true, Targets = ModuleSelector.List(["c_attn", "c_fc"]), RankPattern = new Dictionary<string, int> { ["c_fc"] = 2 } },
        "embedding" => new() { Rank = 4, Targets = ModuleSelector.List(["embed_tokens", "q_proj"]) },
        _ => new() { Rank = 4, Init = variant },
    };

    [Theory]
    [MemberData(nameof(Variants))]
    public void Adapter_saved_adapter_and_merged_model_answer_alike(string fixture, string variant)
    {
        using var model = new AdaptedModel(fixture);
        using Tensor ids = tensor(new long[,] { { 4, 5, 7, 9, 100, 3, 8, 12 } });
        using var scope = NewDisposeScope();
        Tensor before = model.Logits(ids);
        LoraAdapter adapter = model.Adapters.Create(Options(variant), 1);
        using (no_grad())
        using (var generator = new Generator(9, CPU))
        {
            foreach (NamedTensor tensor in adapter.Tensors)
            {
                tensor.Value.add_(randn(tensor.Value.shape, generator: generator) * 0.1);
            }
        }

        Tensor adapted = model.Logits(ids);
        Assert.True((adapted - before).abs().max().item<float>() > 1e-3);
        using var folder = new TemporaryFolder();
        string saved = Path.Combine(folder.Path, "adapter");
        AdapterWriter.Write(adapter, saved, model.Adapters.Base);
        using AdapterFolder opened = AdapterFolder.Open(saved);
        LoraAdapter loaded = model.Adapters.Load(opened, "loaded");
        Assert.DoesNotContain(loaded.Warnings, w => w.Contains("other weights", StringComparison.Ordinal));
        Assert.Equal(adapter.ParameterCount, loaded.ParameterCount);
        model.Adapters.Select("loaded");
        // A frozen adapter's few rows go through another kernel than a trainable one's: equal to rounding.
        Assert.InRange((adapted - model.Logits(ids)).abs().max().item<float>(), 0, 1e-5 * Math.Max(1, adapted.abs().max().item<float>()));
        using (ModelSource source = ModelSource.OpenFolder(Fixtures.Path(fixture)))
        {
            AdapterMerger.Merge(source, [new(opened)], Path.Combine(folder.Path, "merged"), new MergeOptions());
        }

        using var merged = new AdaptedModel(Path.Combine(folder.Path, "merged"));
        float largest = Math.Max(1, adapted.abs().max().item<float>());
        Assert.True((merged.Logits(ids) - adapted).abs().max().item<float>() < 5e-5 * largest, $"{(merged.Logits(ids) - adapted).abs().max().item<float>()}");
    }

    [Theory]
    [InlineData("pissa", 0)]
    [InlineData("olora", 0)]
    [InlineData("pissa", 0.2)]
    public void Dora_over_a_residual_is_saved_as_dora_over_the_base(string init, double dropout)
    {
        using var model = new AdaptedModel("models/llama");
        using Tensor ids = tensor(new long[,] { { 4, 5, 7, 9, 100, 3, 8, 12 } });
        using var scope = NewDisposeScope();
        LoraAdapter adapter = model.Adapters.Create(new LoraOptions { Rank = 4, UseDora = true, Init = init, Dropout = dropout }, 1);
        using (no_grad())
        using (var generator = new Generator(9, CPU))
        {
            foreach (NamedTensor tensor in adapter.Tensors)
            {
                tensor.Value.add_(randn(tensor.Value.shape, generator: generator) * 0.05);
            }
        }

        Tensor adapted = model.Logits(ids);
        // Dropping nothing goes the other way through the layer and must come to the same.
        model.Adapters.Training = dropout > 0;
        Assert.Equal(dropout > 0, (model.Logits(ids) - adapted).abs().max().item<float>() > 1e-3);
        model.Adapters.Training = false;
        using var folder = new TemporaryFolder();
        string saved = Path.Combine(folder.Path, "adapter");
        AdapterWriter.Write(adapter, saved, model.Adapters.Base);
        using AdapterFolder opened = AdapterFolder.Open(saved);
        Assert.Equal((8, true, "true"), (opened.Config.Rank, opened.Config.UseDora, opened.Config.InitLoraWeights));
        model.Adapters.Load(opened, "loaded");
        model.Adapters.Select("loaded");
        Assert.True((adapted - model.Logits(ids)).abs().max().item<float>() < 2e-5);
        using (ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/llama")))
        {
            AdapterMerger.Merge(source, [new(opened)], Path.Combine(folder.Path, "merged"), new MergeOptions());
        }

        using var merged = new AdaptedModel(Path.Combine(folder.Path, "merged"));
        Assert.True((merged.Logits(ids) - adapted).abs().max().item<float>() < 5e-5);
    }

    [Fact]
    public void An_embedding_saved_along_with_its_factors_is_kept_and_not_computed_with()
    {
        using var model = new AdaptedModel("models/llama");
        using AdapterFolder original = AdapterFolder.Open(Fixtures.Path("adapters/embed_lora"));
        using var folder = new TemporaryFolder();
        using var scope = NewDisposeScope();
        using Tensor table = FlatModel.Read("models/llama/model.safetensors", "model.embed_tokens.weight");
        var tensors = original.Parts.Select(p => (p.Key, FlatModel.Read("adapters/embed_lora/adapter_model.safetensors", p.Key))).ToList();
        tensors.Add((AdapterTensor.KeyOf("model.embed_tokens", AdapterPart.BaseWeight), table));
        string output = Path.Combine(folder.Path, "a");
        AdapterFolderWriter.Write(output, original.Config, tensors);
        using AdapterFolder saved = AdapterFolder.Open(output);
        LoraAdapter adapter = model.Adapters.Load(saved);
        Assert.True(adapter.Modules["model.embed_tokens"].WeightIsBase);
        model.Adapters.Select(AdapterSet.DefaultName);
        using Tensor ids = FlatModel.Read("adapters/embed_lora/golden.safetensors", "input_ids");
        Assert.True(model.Difference(ids, "adapters/embed_lora/golden.safetensors", "adapter_logits") < 1e-4);
        AdapterWriter.Write(adapter, Path.Combine(folder.Path, "b"));
        Assert.Equal(File.ReadAllBytes(Path.Combine(output, AdapterFolder.WeightsName)), File.ReadAllBytes(Path.Combine(folder.Path, "b", AdapterFolder.WeightsName)));
    }
}

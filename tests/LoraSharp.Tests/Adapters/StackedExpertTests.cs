using LoraSharp.Adapters;
using LoraSharp.Adapters.Analysis;
using LoraSharp.Adapters.Combining;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

/// <summary>PEFT's <c>target_parameters</c> on experts that are stored one by one, stacked, and stacked the other way round.</summary>
public sealed class StackedExpertTests : IDisposable
{
    private static readonly string[] Both = ["experts.gate_up_proj", "experts.down_proj"];

    private readonly TemporaryFolder _folder = new();
    private readonly Tensor _ids = tensor(new long[,] { { 4, 5, 7, 9, 100, 3, 8, 12, 55, 31, 2, 77 } });

    public static TheoryData<string, string[]> Models => new()
    {
        { "qwen3_moe", Both },
        { "mixtral", Both },
        { "olmoe", ["experts.gate_up_proj"] },
        { "deepseek_v3", ["experts.down_proj"] },
        { "gpt_oss", Both },
        { "granitemoe", ["input_linear.weight", "output_linear.weight"] },
    };

    public void Dispose()
    {
        _ids.Dispose();
        _folder.Dispose();
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void Adapter_saved_adapter_and_merged_model_answer_alike(string name, string[] parameters)
    {
        using var model = new AdaptedModel("models/" + name);
        using var scope = NewDisposeScope();
        Tensor before = model.Logits(_ids);
        LoraAdapter adapter = Random(model, parameters);
        Tensor adapted = model.Logits(_ids);
        float scale = Math.Max(1, adapted.abs().max().item<float>());
        Assert.True((adapted - before).abs().max().item<float>() > 1e-3 * scale);
        string saved = Path.Combine(_folder.Path, "a"), again = Path.Combine(_folder.Path, "b"), merged = Path.Combine(_folder.Path, "m"), back = Path.Combine(_folder.Path, "back");
        AdapterWriter.Write(adapter, saved, model.Adapters.Base);
        using AdapterFolder opened = AdapterFolder.Open(saved);
        LoraAdapter loaded = model.Adapters.Load(opened, "loaded");
        Assert.Empty(loaded.Warnings);
        Assert.Equal(adapter.ParameterCount, loaded.ParameterCount);
        Assert.True(loaded.RunsAlone);
        model.Adapters.Select("loaded");
        Assert.True(adapted.Equals(model.Logits(_ids)));
        AdapterWriter.Write(loaded, again, model.Adapters.Base);
        Assert.Equal(File.ReadAllBytes(Path.Combine(saved, AdapterFolder.WeightsName)), File.ReadAllBytes(Path.Combine(again, AdapterFolder.WeightsName)));

        using (ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/" + name)))
        {
            AdapterMerger.Merge(source, [new(opened)], merged, new MergeOptions { StoredType = ElementType.F32 });
        }

        using (var whole = new AdaptedModel(merged))
        {
            Assert.InRange((whole.Logits(_ids) - adapted).abs().max().item<float>(), 0, 5e-5f * scale);
        }

        using (ModelSource source = ModelSource.OpenFolder(merged))
        {
            AdapterMerger.Merge(source, [new(opened)], back, new MergeOptions { Unmerge = true });
        }

        using var unmerged = new AdaptedModel(back);
        Assert.InRange((unmerged.Logits(_ids) - before).abs().max().item<float>(), 0, 5e-5f * scale);
    }

    [Theory]
    [InlineData("qwen3_moe", "model.layers.0.mlp.experts", 64)]
    [InlineData("mixtral", "model.layers.0.mlp.experts", 192)]
    public void The_update_and_the_keys_are_those_of_pefts_wrapper(string name, string experts, long rows)
    {
        using var model = new AdaptedModel("models/" + name);
        using var scope = NewDisposeScope();
        LoraAdapter adapter = Random(model, Both);
        string saved = Path.Combine(_folder.Path, "a"), merged = Path.Combine(_folder.Path, "m");
        AdapterWriter.Write(adapter, saved);
        using AdapterFolder opened = AdapterFolder.Open(saved);
        string Key(string rest) => $"base_model.model.{experts}.{rest}.weight";

        // gate_up_proj is declared first and so wrapped first: it lies within the wrapper of down_proj.
        Assert.Equal([4 * 3, 48], opened.Tensors.Tensors[Key("base_layer.lora_A")].Shape);
        Assert.Equal([rows, 4 * 3], opened.Tensors.Tensors[Key("base_layer.lora_B")].Shape);
        Assert.Equal([4 * 3, rows / 2], opened.Tensors.Tensors[Key("lora_A")].Shape);
        Assert.Equal([48, 4 * 3], opened.Tensors.Tensors[Key("lora_B")].Shape);

        // PEFT: einsum("o r e, e r i -> e o i") over B seen as [o, r, e] and A as [e, r, i].
        Tensor a = AdapterReader.Float(opened, Key("base_layer.lora_A")).view(4, 3, 48);
        Tensor b = AdapterReader.Float(opened, Key("base_layer.lora_B")).view(rows, 3, 4);
        Tensor expected = einsum("ore,eri->eoi", b, a) * (8.0 / 3);
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/" + name));
        AdapterMerger.Merge(source, [new(opened)], merged, new MergeOptions { StoredType = ElementType.F32 });
        using ModelSource result = ModelSource.OpenFolder(merged);
        string[] layers = name == "mixtral" ? ["block_sparse_moe.experts.2.w1", "block_sparse_moe.experts.2.w3"] : ["mlp.experts.2.gate_proj", "mlp.experts.2.up_proj"];
        Tensor Weight(ModelSource from, string layer) => Tensors.TensorBytes.ToTensor(from.Tensors.Read($"model.layers.0.{layer}.weight"), null, CPU).to(ScalarType.Float32);
        Tensor found = cat([.. layers.Select(l => Weight(result, l) - Weight(source, l))], 0);
        Assert.InRange((found - expected[2]).abs().max().item<float>(), 0, 1e-5f);
    }

    [Theory]
    [MemberData(nameof(Models))]
    public void Every_step_has_the_gradient_that_differences_show(string name, string[] parameters)
    {
        using var model = new AdaptedModel("models/" + name);
        LoraAdapter adapter = Random(model, parameters);
        using var generator = new Generator(3, CPU);
        AdapterModule[] stacks = [.. adapter.Modules.Values.Where(m => m.Experts > 0)];
        for (int step = 0; step < 2; step++)
        {
            using var scope = NewDisposeScope();
            foreach (NamedTensor tensor in adapter.Tensors)
            {
                tensor.Value.grad?.zero_();
            }

            Loss(model, true).backward();
            Tensor[] directions = [.. stacks.Select(s => randn(s.A!.shape, generator: generator))];
            double expected = stacks.Zip(directions, (s, d) => (s.A!.grad! * d).sum().item<float>()).Sum();
            // Short, so that no token changes its experts on the way.
            const float Reach = 2e-4f;
            double Moved(float by)
            {
                using var none = no_grad();
                for (int i = 0; i < stacks.Length; i++)
                {
                    stacks[i].A!.add_(directions[i], by);
                }

                return Loss(model, false).item<double>();
            }

            double up = Moved(Reach), down = Moved(-2 * Reach);
            Moved(Reach);
            Assert.InRange(Math.Abs(((up - down) / (2 * Reach)) - expected), 0, 0.03 * Math.Max(0.05, Math.Abs(expected)));
            // What an optimizer does: the parts that layers hold see it.
            using var none = no_grad();
            foreach (AdapterModule stack in stacks)
            {
                stack.A!.add_(stack.A.grad!, -0.5f);
                stack.B!.add_(stack.B.grad!, -0.5f);
            }
        }
    }

    [Fact]
    public void The_weight_of_a_layer_named_as_a_parameter_is_that_layer()
    {
        using var model = new AdaptedModel("models/llama");
        LoraAdapter adapter = model.Adapters.Create(new LoraOptions { Rank = 2, Targets = ModuleSelector.List([]), TargetParameters = ["layers.1.self_attn.q_proj.weight"], Init = "false" }, 1);
        AdapterModule only = Assert.Single(adapter.Modules.Values);
        Assert.Equal(("model.layers.1.self_attn.q_proj", 0), (only.Name, only.Experts));
        AdapterWriter.Write(adapter, _folder.Path);
        using AdapterFolder saved = AdapterFolder.Open(_folder.Path);
        Assert.Equal("model.layers.1.self_attn.q_proj", Assert.Single(AdapterReader.Modules(saved)));
        Assert.Equal(adapter.ParameterCount, model.Adapters.Load(saved, "b").ParameterCount);
    }

    [Fact]
    public void What_does_not_go_together_is_named()
    {
        using var model = new AdaptedModel("models/qwen3_moe");
        string Fault(LoraOptions options) => Assert.Throws<LoraSharpException>(() => model.Adapters.Create(options, 1)).Message;
        var stacks = new LoraOptions { TargetParameters = Both };
        Assert.Contains("dropout, found 0.1", Fault(stacks with { Dropout = 0.1 }), StringComparison.Ordinal);
        Assert.Contains("dora", Fault(stacks with { UseDora = true }), StringComparison.Ordinal);
        Assert.Contains("found 'pissa'", Fault(stacks with { Init = "pissa" }), StringComparison.Ordinal);
        Assert.Contains("model.layers.0.mlp.experts.gate_up_proj", Fault(stacks with { TargetParameters = ["experts.nothing"] }), StringComparison.Ordinal);
        Assert.Contains("as a module and as part of", Fault(stacks with { Targets = ModuleSelector.List(["experts.0.gate_proj"]) }), StringComparison.Ordinal);
        using var dense = new AdaptedModel("models/llama");
        Assert.Contains("has none", Assert.Throws<LoraSharpException>(() => dense.Adapters.Create(stacks, 1)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Inspecting_tells_of_experts_and_combining_refuses_them()
    {
        using var model = new AdaptedModel("models/qwen3_moe");
        using var scope = NewDisposeScope();
        LoraAdapter adapter = Random(model, Both);
        AdapterWriter.Write(adapter, _folder.Path);
        using AdapterFolder saved = AdapterFolder.Open(_folder.Path);
        AdapterReport report = AdapterInspector.Inspect(saved, new InspectOptions { Spectrum = true });
        ModuleReport down = report.Modules.First(m => m.Module == "model.layers.1.mlp.experts.down_proj");
        Assert.Equal(("4 experts", 3), (down.Kind, down.Rank));
        Assert.Equal(adapter.Modules[down.Module].Delta()!.square().sum().sqrt().item<float>(), down.NormUpdate, 3);
        Assert.Contains("target_parameters", Assert.Throws<LoraSharpException>(() => AdapterCombiner.Combine([new(saved, 1), new(saved, 1)], new CombineOptions { Method = CombineMethod.Cat }, "never")).Message, StringComparison.Ordinal);
    }

    private static LoraAdapter Random(AdaptedModel model, string[] parameters)
    {
        LoraAdapter adapter = model.Adapters.Create(
            new LoraOptions { Rank = 3, Alpha = 8, Targets = ModuleSelector.List(["q_proj"]), TargetParameters = parameters, Init = "false" }, 1);
        return adapter;
    }

    private Tensor Loss(AdaptedModel model, bool grad)
    {
        using IDisposable mode = grad ? enable_grad() : no_grad();
        Tensor logits = model.Logits(_ids, grad);
        return logits.to(ScalarType.Float64).log_softmax(-1).select(-1, 7).mean();
    }
}

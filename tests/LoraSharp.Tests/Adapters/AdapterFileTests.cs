using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

public sealed class AdapterFileTests
{
    public static TheoryData<string> Folders => [.. Directory.EnumerateDirectories(Fixtures.Path("adapters")).Select(f => Path.GetFileName(f)!).Order(StringComparer.Ordinal)];

    private static FlatModel Base(string adapter) => new(File.ReadAllText(Path.Combine(Fixtures.Path("adapters/" + adapter), "base_model.txt")).Trim());

    [Theory]
    [MemberData(nameof(Folders))]
    public void A_new_adapter_has_as_many_trainable_parameters_as_in_peft(string name)
    {
        using FlatModel model = Base(name);
        PeftConfig config = PeftConfig.Read(Path.Combine(Fixtures.Path("adapters/" + name), PeftConfig.FileName));
        LoraAdapter adapter = model.Adapters.Create(LoraOptions.FromConfig(config), seed: 1);
        using Tensor expected = FlatModel.Read($"adapters/{name}/golden.safetensors", "trainable_parameters");
        Assert.Equal(expected.item<long>(), adapter.ParameterCount);
        Assert.All(adapter.Tensors, t => Assert.True(t.Value.requires_grad));
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void A_new_adapter_is_saved_under_the_keys_shapes_and_fields_of_peft(string name)
    {
        using FlatModel model = Base(name);
        string reference = Fixtures.Path("adapters/" + name);
        PeftConfig config = PeftConfig.Read(Path.Combine(reference, PeftConfig.FileName));
        bool doubles = config.ChangesBase;
        LoraAdapter adapter = model.Adapters.Create(LoraOptions.FromConfig(config), seed: 1);
        using var folder = new TemporaryFolder();
        AdapterWriter.Write(adapter, folder.Path);
        using SafetensorsFile ours = SafetensorsFile.Open(Path.Combine(folder.Path, AdapterFolder.WeightsName));
        using SafetensorsFile theirs = SafetensorsFile.Open(Path.Combine(reference, AdapterFolder.WeightsName));
        Assert.Equal(theirs.Tensors.Keys.Order(StringComparer.Ordinal), ours.Tensors.Keys.Order(StringComparer.Ordinal));
        Assert.All(theirs.Tensors.Where(_ => !doubles), t => Assert.Equal(t.Value.Shape, ours.Tensors[t.Key].Shape));
        Assert.Equal("pt", ours.Metadata["format"]);
        PeftConfig written = PeftConfig.Read(Path.Combine(folder.Path, PeftConfig.FileName));
        Assert.Equal(config.ToJson().Select(p => p.Key), written.ToJson().Select(p => p.Key));
        Assert.Equal(config.TargetModules, written.TargetModules);
        if (!doubles)
        {
            Assert.Equal(
                (config with { TargetModules = null }).ToText(),
                (written with { TargetModules = null }).ToText());
        }
        else
        {
            Assert.Equal((2 * config.Rank, 2 * config.Alpha, "true"), (written.Rank, written.Alpha, written.InitLoraWeights));
        }
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void Load_save_load_keeps_every_bit(string name)
    {
        using FlatModel model = Base(name);
        using AdapterFolder original = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
        LoraAdapter adapter = model.Adapters.Load(original);
        using var folder = new TemporaryFolder();
        PeftConfig written = AdapterWriter.Write(adapter, folder.Path);
        using AdapterFolder again = AdapterFolder.Open(folder.Path);
        LoraAdapter second = model.Adapters.Load(again, "again");
        using var third = new TemporaryFolder();
        AdapterWriter.Write(second, third.Path);
        Assert.Equal(
            File.ReadAllBytes(Path.Combine(folder.Path, AdapterFolder.WeightsName)),
            File.ReadAllBytes(Path.Combine(third.Path, AdapterFolder.WeightsName)));
        if (!adapter.HasAnchors)
        {
            Assert.Equal(original.Config.ToText(), written.ToText());
            foreach (AdapterTensor part in original.Parts)
            {
                Assert.Equal(
                    original.Tensors.Read(part.Key).Slice(0, (int)part.Info.ByteCount).ToArray(),
                    again.Tensors.Read(part.Key).Slice(0, (int)part.Info.ByteCount).ToArray());
            }
        }
    }

    [Theory]
    [InlineData("pissa")]
    [InlineData("olora")]
    public void Initial_factors_and_the_residual_are_pefts_up_to_sign(string name)
    {
        using FlatModel model = Base(name);
        PeftConfig config = PeftConfig.Read(Path.Combine(Fixtures.Path("adapters/" + name), PeftConfig.FileName));
        LoraAdapter adapter = model.Adapters.Create(LoraOptions.FromConfig(config), seed: 1);
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        foreach (AdapterModule module in adapter.Modules.Values)
        {
            string prefix = $"init.base_model.model.{module.Name}.";
            Tensor a = FlatModel.Read($"adapters/{name}/golden.safetensors", prefix + "lora_A.default.weight");
            Tensor b = FlatModel.Read($"adapters/{name}/golden.safetensors", prefix + "lora_B.default.weight");
            Tensor residual = FlatModel.Read($"adapters/{name}/golden.safetensors", prefix + "base_layer.weight");
            // Each column of B and row of A may be turned round together.
            Tensor sign = (module.A! * a).sum(1).sign();
            Assert.True(((module.A! * sign.unsqueeze(1)) - a).abs().max().item<float>() < 2e-5);
            Assert.True(((module.B! * sign.unsqueeze(0)) - b).abs().max().item<float>() < 2e-5);
            Tensor ours = model.Adapters.Linears[module.Name].DenseWeight() - (module.Scaling * module.AnchorB!.mm(module.AnchorA!));
            // The reference stored its base after merging in place, so it holds residual + s·B·A.
            Assert.True((ours + (module.Scaling * b.mm(a)) - residual).abs().max().item<float>() < 2e-5);
        }
    }

    [Fact]
    public void Saving_pissa_after_training_gives_a_plain_lora_with_the_same_update()
    {
        using FlatModel model = Base("pissa");
        PeftConfig config = PeftConfig.Read(Path.Combine(Fixtures.Path("adapters/pissa"), PeftConfig.FileName));
        LoraAdapter adapter = model.Adapters.Create(LoraOptions.FromConfig(config), seed: 1);
        using var scope = NewDisposeScope();
        using (no_grad())
        {
            foreach (AdapterModule module in adapter.Modules.Values)
            {
                module.A!.add_(0.1);
                module.B!.mul_(1.3);
            }
        }

        using var folder = new TemporaryFolder();
        AdapterWriter.Write(adapter, folder.Path);
        using AdapterFolder saved = AdapterFolder.Open(folder.Path);
        LoraAdapter plain = model.Adapters.Load(saved, "plain");
        Assert.False(plain.HasAnchors);
        foreach (AdapterModule module in adapter.Modules.Values)
        {
            Tensor difference = module.Delta()! - plain.Modules[module.Name].Delta()!;
            Assert.True(difference.abs().max().item<float>() < 1e-5);
        }
    }

    [Fact]
    public void An_adapter_for_another_shape_is_refused_with_every_fault()
    {
        using var model = new FlatModel("models/gemma2");
        using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/gpt2_conv1d"));
        string message = Assert.Throws<LoraSharpException>(() => model.Adapters.Load(folder)).Message;
        Assert.Contains("not one of its modules matches", message, StringComparison.Ordinal);
        Assert.Contains("transformer.h.0.attn.c_attn", message, StringComparison.Ordinal);
        Assert.Empty(model.Adapters.Adapters);
    }

    [Fact]
    public void Values_that_are_not_finite_are_refused()
    {
        using FlatModel model = Base("plain_qv");
        using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/plain_qv"));
        LoraAdapter adapter = model.Adapters.Load(folder);
        using (no_grad())
        using (Tensor row = adapter.Modules["model.layers.1.self_attn.v_proj"].B!.select(0, 2))
        {
            row.fill_(float.NaN);
        }

        using var broken = new TemporaryFolder();
        AdapterWriter.Write(adapter, broken.Path);
        using AdapterFolder again = AdapterFolder.Open(broken.Path);
        string message = Assert.Throws<LoraSharpException>(() => model.Adapters.Load(again, "broken")).Message;
        Assert.Contains("model.layers.1.self_attn.v_proj.lora_B.weight: holds NaN", message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_adapter_that_does_nothing_is_told()
    {
        using FlatModel model = Base("plain_qv");
        LoraAdapter fresh = model.Adapters.Create(new LoraOptions { Targets = ModuleSelector.List(["q_proj"]) }, seed: 3);
        using var folder = new TemporaryFolder();
        AdapterWriter.Write(fresh, folder.Path);
        using AdapterFolder saved = AdapterFolder.Open(folder.Path);
        Assert.Contains(model.Adapters.Load(saved, "saved").Warnings, w => w.Contains("change nothing", StringComparison.Ordinal));
    }

    [Fact]
    public void Targets_that_match_nothing_name_the_layers_there_are()
    {
        using var model = new FlatModel("models/llama");
        string message = Assert.Throws<LoraSharpException>(() => model.Adapters.Create(new LoraOptions { Targets = ModuleSelector.List(["c_attn"]) }, 1)).Message;
        Assert.Contains("q_proj", message, StringComparison.Ordinal);
        Assert.Contains("down_proj", message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_wrong_rank_in_the_configuration_is_refused_because_the_scaling_would_be_wrong()
    {
        using var folder = new TemporaryFolder();
        foreach (string file in Directory.EnumerateFiles(Fixtures.Path("adapters/plain_qv"), "adapter_*"))
        {
            File.Copy(file, Path.Combine(folder.Path, Path.GetFileName(file)));
        }

        string config = Path.Combine(folder.Path, PeftConfig.FileName);
        File.WriteAllText(config, File.ReadAllText(config).Replace("\"r\": 8", "\"r\": 16", StringComparison.Ordinal));
        Assert.Contains("has rank 8", Assert.Throws<MalformedFileException>(() => AdapterFolder.Open(folder.Path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Options_name_every_fault_at_once()
    {
        string message = Assert.Throws<LoraSharpException>(new LoraOptions { Rank = 0, Dropout = 1, Bias = "x", Init = "y" }.Validate).Message;
        Assert.All(["rank", "dropout", "bias", "init"], part => Assert.Contains(part, message, StringComparison.Ordinal));
    }

    [Fact]
    public void A_seed_gives_the_same_adapter_and_another_seed_another()
    {
        using var model = new FlatModel("models/llama");
        var options = new LoraOptions { Rank = 4 };
        LoraAdapter[] made = [model.Adapters.Create(options, 1, "a"), model.Adapters.Create(options, 1, "b"), model.Adapters.Create(options, 2, "c")];
        Tensor[] a = [.. made.Select(m => m.Modules["model.layers.0.mlp.up_proj"].A!)];
        Assert.True(a[0].Equals(a[1]));
        Assert.False(a[0].Equals(a[2]));
        Assert.InRange(a[0].abs().max().item<float>(), 0.9f / MathF.Sqrt(48), 1 / MathF.Sqrt(48));
    }
}

internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(Path, true);
}

using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Formats.Tests.Gguf;

public sealed class GgufAdapterTests
{
    private static JsonObject BaseConfig => new() { ["model_type"] = "llama", ["num_attention_heads"] = 8, ["num_key_value_heads"] = 2, ["hidden_size"] = 256 };

    [Fact]
    public void The_reference_file_equals_the_folder_it_came_from()
    {
        using AdapterFolder expected = AdapterFolder.Open(Fixtures.Path("gguf/adapter"));
        using AdapterFolder found = GgufAdapter.Open(Fixtures.Path("gguf/adapter-f32.gguf"), BaseConfig);
        Equal(expected, found);
        Assert.Equal(9, found.Config.Alpha);
        Assert.Equal(6, found.Config.Rank);
        Assert.Equal(14, found.Config.TargetModules!.Names.Count);
    }

    [Fact]
    public void What_is_written_equals_the_reference_file()
    {
        using var folder = new TemporaryFolder();
        using AdapterFolder adapter = AdapterFolder.Open(Fixtures.Path("gguf/adapter"));
        GgufAdapterWriter.Write(folder.File("a.gguf"), adapter, BaseConfig, GgufTensorType.F32);
        using GgufFile made = GgufFile.Open(folder.File("a.gguf"));
        using GgufFile reference = GgufFile.Open(Fixtures.Path("gguf/adapter-f32.gguf"));
        Assert.Equal(reference.Tensors.Keys.Order(StringComparer.Ordinal), made.Tensors.Keys.Order(StringComparer.Ordinal));
        foreach ((string name, GgufTensorInfo info) in reference.Tensors)
        {
            Assert.Equal(info.Shape, made.Tensors[name].Shape);
            Assert.True(Bytes(reference, info).SequenceEqual(Bytes(made, made.Tensors[name])), name);
        }

        Assert.Equal(9.0, made.Metadata["adapter.lora.alpha"].AsDouble());
        Assert.Equal("lora", made.Metadata["adapter.type"].AsString());
        using AdapterFolder alone = GgufAdapter.Open(folder.File("a.gguf"));
        Equal(adapter, alone);
    }

    [Fact]
    public void Without_heads_the_base_model_is_asked_for()
    {
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => GgufAdapter.Open(Fixtures.Path("gguf/adapter-f32.gguf")));
        Assert.Contains("Name the base model too", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_base_of_another_architecture_is_refused()
    {
        JsonObject config = BaseConfig;
        config["model_type"] = "qwen2";
        Assert.Contains("adapter for the architecture llama, the base model is qwen2", Assert.Throws<MalformedFileException>(() => GgufAdapter.Open(Fixtures.Path("gguf/adapter-f32.gguf"), config)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_model_is_no_adapter()
    {
        Assert.Contains("is no LoRA adapter", Assert.Throws<MalformedFileException>(() => GgufAdapter.Open(Fixtures.Path("gguf/tiny-q4_0.gguf"), BaseConfig)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Scalings_of_a_module_go_into_its_factor()
    {
        using var folder = new TemporaryFolder();
        using AdapterFolder plain = AdapterFolder.Open(Fixtures.Path("gguf/adapter"));
        using var adapter = new AdapterFolder(plain.Location, plain.Config with { UseRsLora = true }, plain.Tensors);
        GgufExportResult result = GgufAdapterWriter.Write(folder.File("a.gguf"), adapter, BaseConfig, GgufTensorType.F32);
        Assert.Contains(result.Warnings, w => w.Contains("rslora", StringComparison.Ordinal));
        using AdapterFolder back = GgufAdapter.Open(folder.File("a.gguf"));
        const string Key = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight";
        float wanted = GgufCheckpointTests.Floats(plain.Tensors.Read(Key))[5] * MathF.Sqrt(6);
        Assert.Equal(wanted, GgufCheckpointTests.Floats(back.Tensors.Read(Key))[5], 1e-6f);
    }

    [Fact]
    public void A_rank_beyond_reason_is_refused()
    {
        using var folder = new TemporaryFolder();
        string path = folder.File("a.gguf");
        File.WriteAllBytes(path, new GgufBytes().String("general.architecture", "llama").String("general.type", "adapter").String("adapter.type", "lora")
            .Key("adapter.lora.alpha", 6, w => w.Write(8f)).Tensor("blk.0.ffn_up.weight.lora_a", 0, 0, 0, 1UL << 40).ToArray());
        MalformedFileException error = Assert.Throws<MalformedFileException>(() => GgufAdapter.Open(path, BaseConfig));
        Assert.Contains("the factor A of model.layers.0.mlp.up_proj is [1099511627776, 0]", error.Message, StringComparison.Ordinal);
    }

    private static void Equal(AdapterFolder expected, AdapterFolder found)
    {
        Assert.Equal(expected.Tensors.Tensors.Keys.Order(StringComparer.Ordinal), found.Tensors.Tensors.Keys.Order(StringComparer.Ordinal));
        foreach (string name in expected.Tensors.Tensors.Keys)
        {
            Assert.Equal(GgufCheckpointTests.Floats(expected.Tensors.Read(name)), GgufCheckpointTests.Floats(found.Tensors.Read(name)));
        }
    }

    private static unsafe ReadOnlySpan<byte> Bytes(GgufFile file, GgufTensorInfo info) => new(file.Pointer(info), (int)info.ByteCount);
}

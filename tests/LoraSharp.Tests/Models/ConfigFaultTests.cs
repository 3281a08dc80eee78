using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

public class ConfigFaultTests
{
    [Fact]
    public void MissingKeysAreListedAtOnce()
    {
        string message = Fault("llama", c =>
        {
            c.Remove("hidden_size");
            c.Remove("num_hidden_layers");
            c.Remove("vocab_size");
        });
        Assert.All(["hidden_size", "num_hidden_layers", "vocab_size"], key => Assert.Contains($"missing: '{key}'", message, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("llama", "attn_logit_softcapping", "50.0")]
    [InlineData("llama", "hidden_act", "\"mish\"")]
    [InlineData("llama", "residual_multiplier", "0.22")]
    [InlineData("llama", "rope_scaling", "{\"rope_type\": \"spiral\"}")]
    [InlineData("llama", "rope_scaling", "{\"rope_type\": \"linear\"}")]
    [InlineData("qwen2", "rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 1e6, \"mrope_section\": [1, 2]}")]
    [InlineData("phi", "qk_layernorm", "true")]
    [InlineData("falcon", "alibi", "true")]
    [InlineData("opt", "do_layer_norm_before", "false")]
    [InlineData("opt", "word_embed_proj_dim", "24")]
    [InlineData("qwen2", "layer_types", "[\"full_attention\", \"linear_attention\"]")]
    [InlineData("llama", "num_key_value_heads", "3")]
    [InlineData("gemma2", "use_bidirectional_attention", "true")]
    [InlineData("llama", "hidden_size", "\"wide\"")]
    public void WhatWouldChangeTheArithmeticAndIsNotImplementedIsNamed(string model, string key, string value)
    {
        JsonNode node = JsonNode.Parse(value)!;
        string message = Fault(model, c => c[key] = node);
        Assert.True(message.Contains(key, StringComparison.Ordinal) || message.Contains("rope", StringComparison.Ordinal), message);
    }

    [Fact]
    public void APatternOfWindowsWithoutAWindowMeansNothing()
    {
        JsonObject config = Config("exaone4");
        config["sliding_window"] = null;
        config["layer_types"] = new JsonArray("full_attention", "full_attention");

        Assert.All(DecoderConfig.Read(config, "here").Layers, layer => Assert.Null(layer.Window));
    }

    [Theory]
    [InlineData("use_cache", "true")]
    [InlineData("attention_dropout", "0.1")]
    [InlineData("_name_or_path", "\"somewhere\"")]
    [InlineData("unsloth_fixed", "true")]
    [InlineData("rope_scaling", "null")]
    [InlineData("sliding_window", "null")]
    public void KeysThatChangeNothingArePassedOver(string key, string value)
    {
        JsonObject config = Config("llama");
        config[key] = JsonNode.Parse(value);
        Assert.Equal("llama", DecoderConfig.Read(config, "here").ModelType);
    }

    public static TheoryData<string> Families => [.. DecoderFamilies.Names];

    /// <summary>Every family, renamed, is recognised by its configuration and tensors, or by one that computes the same.</summary>
    [Theory]
    [MemberData(nameof(Families))]
    public void AnUnknownFamilyNamesTheNearest(string family)
    {
        NativeRuntime.EnsureLoaded();
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/" + family));
        source.Config["model_type"] = "brand_new";
        string message = Assert.Throws<LoraSharpException>(() => ModelLoader.Load(source, new DenseLinearFactory(), ScalarType.Float32, CPU)).Message;
        Assert.Contains("'brand_new'", message, StringComparison.Ordinal);
        string nearest = message.Split("The nearest is '")[1].Split('\'')[0];
        Assert.Contains(nearest, Alike(family));
    }

    // Families that config.json and tensors alone do not tell apart.
    private static string[] Alike(string family) => family switch
    {
        "mistral" or "ernie4_5" or "helium" or "seed_oss" or "smollm3" or "gemma" or "llama" => ["llama", "mistral", "ernie4_5", "helium", family],
        "olmo2" or "olmo3" => ["olmo2", "olmo3"],
        _ => [family],
    };

    [Fact]
    public void ModelTypeTriesAFamily()
    {
        JsonObject config = Config("llama");
        config["model_type"] = "brand_new";
        Assert.Equal("mistral", DecoderConfig.Read(config, "here", "mistral").ModelType);
    }

    [Fact]
    public void TensorsThatDoNotFitAreListedAtOnce()
    {
        NativeRuntime.EnsureLoaded();
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        JsonObject config = Config("llama");
        config["num_hidden_layers"] = 1;
        config["intermediate_size"] = 95;
        config["attention_bias"] = true;
        var changed = new ModelSource(source.Name, source.Location, config, source.Tensors);
        string message = Assert.Throws<LoraSharpException>(() => ModelLoader.Load(changed, new DenseLinearFactory(), ScalarType.Float32, CPU)).Message;
        Assert.Contains("left over: model.layers.1.self_attn.q_proj.weight", message, StringComparison.Ordinal);
        Assert.Contains("missing: model.layers.0.self_attn.q_proj.bias [48]", message, StringComparison.Ordinal);
        Assert.Contains("shape: model.layers.0.mlp.gate_proj.weight expected [95, 48], found [96, 48]", message, StringComparison.Ordinal);
    }

    private static JsonObject Config(string model) => JsonFile.ReadObject(Path.Combine(Fixtures.Path("models/" + model), "config.json"));

    private static string Fault(string model, Action<JsonObject> change)
    {
        JsonObject config = Config(model);
        change(config);
        return Assert.Throws<LoraSharpException>(() => DecoderConfig.Read(config, "here")).Message;
    }
}

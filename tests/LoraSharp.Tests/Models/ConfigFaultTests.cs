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
    [InlineData("llama", "hidden_act", "\"xielu\"")]
    [InlineData("llama", "residual_multiplier", "0.22")]
    [InlineData("llama", "rope_scaling", "{\"rope_type\": \"spiral\"}")]
    [InlineData("llama", "rope_scaling", "{\"rope_type\": \"linear\"}")]
    [InlineData("qwen2", "rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 1e6, \"mrope_section\": [1, 2]}")]
    [InlineData("qwen2", "layer_types", "[\"full_attention\", \"linear_attention\"]")]
    [InlineData("llama", "layer_types", "[\"sliding_attention\", \"full_attention\"]")]
    [InlineData("phi3", "full_attn_mod", "2")]
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

    /// <summary>What published checkpoints have in <c>config.json</c> and transformers' classes never read.</summary>
    [Theory]
    [InlineData("gemma2", "hidden_act", "\"gelu_pytorch_tanh\"")]
    [InlineData("gemma2", "sliding_window_size", "4096")]
    [InlineData("gemma", "hidden_activation", "\"gelu\"")]
    [InlineData("cohere2", "use_parallel_block", "true")]
    [InlineData("cohere2", "position_embedding_type", "\"rope_gptj\"")]
    [InlineData("cohere2", "layer_switch", "4")]
    [InlineData("starcoder2", "scale_attn_weights", "true")]
    [InlineData("starcoder2", "norm_type", "\"layer_norm\"")]
    [InlineData("phi3", "interpolate_factor", "1")]
    [InlineData("phi3", "full_attn_mod", "1")]
    [InlineData("stablelm", "rotary_scaling_factor", "1.0")]
    [InlineData("qwen2", "dual_chunk_attention_config", "{\"chunk_size\": 8192}")]
    [InlineData("llama", "partial_rotary_factor", "0.5")]
    public void WhatTransformersIgnoresIsIgnored(string model, string key, string value)
    {
        JsonObject config = Config(model);
        DecoderConfig before = DecoderConfig.Read(config, "here");
        config[key] = JsonNode.Parse(value);
        DecoderConfig after = DecoderConfig.Read(config, "here");
        Assert.Equal(before with { Layers = after.Layers, Names = after.Names }, after);
        Assert.Equal(before.Layers, after.Layers);
    }

    /// <summary>A key that is missing is what transformers' class of the family says; null is something else.</summary>
    [Fact]
    public void MissingKeysAreTheClassesDefaults()
    {
        DecoderConfig Read(string model, params string[] removed)
        {
            JsonObject config = Config(model);
            foreach (string key in removed)
            {
                config.Remove(key);
            }

            return DecoderConfig.Read(config, "here");
        }

        DecoderConfig gemma = Read("gemma2", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar");
        Assert.Equal((4096, 50.0, 30.0, 1 / 16.0), (gemma.Layers[0].Window, gemma.Attention.SoftCap, gemma.LogitSoftCap, gemma.Attention.Scale));
        JsonObject none = Config("gemma2");
        none["attn_logit_softcapping"] = null;
        Assert.Null(DecoderConfig.Read(none, "here").Attention.SoftCap);
        Assert.Equal(4096, Read("mistral", "sliding_window").Layers[0].Window);
        Assert.Null(Read("mixtral", "sliding_window").Layers[0].Window);
        Assert.Equal(128, Read("gpt_oss", "sliding_window").Layers[0].Window);
    }

    /// <summary>transformers 5 puts the older spelling first where a file has both, and the length beside it before the one in it.</summary>
    [Fact]
    public void OlderSpellingsOfRotaryPositionsComeFirst()
    {
        JsonObject config = Config("qwen2_yarn");
        config["rope_parameters"] = JsonNode.Parse("""{"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}""");
        config["original_max_position_embeddings"] = 64;
        RopeSpec rope = DecoderConfig.Read(config, "here").Layers[0].Rope!;
        Assert.Equal((RopeScaling.Yarn, 4.0, 64, 1_000_000.0), (rope.Scaling, rope.Factor, rope.OriginalMaxPositions, rope.Theta));

        // YaRN's bounds given as null or 0 are the paper's, its temperature can be stated.
        config["rope_scaling"] = JsonNode.Parse("""{"type": "yarn", "factor": 4.0, "beta_fast": null, "beta_slow": 0, "attention_factor": 1.5}""");
        rope = DecoderConfig.Read(config, "here").Layers[0].Rope!;
        Assert.Equal((32.0, 1.0, 1.5), (rope.BetaFast, rope.BetaSlow, rope.AttentionFactor));
    }

    /// <summary>Where one description serves two kinds of layers, a stretch is for those that see everything.</summary>
    [Fact]
    public void AFlatStretchIsForFullAttentionOnly()
    {
        JsonObject config = Config("olmo3");
        config["rope_parameters"] = JsonNode.Parse("""{"rope_type": "yarn", "factor": 4.0, "rope_theta": 77.0, "original_max_position_embeddings": 64}""");
        IReadOnlyList<DecoderLayerConfig> layers = DecoderConfig.Read(config, "here").Layers;
        Assert.Equal((RopeScaling.Default, 77.0), (layers[0].Rope!.Scaling, layers[0].Rope!.Theta));
        Assert.Equal((RopeScaling.Yarn, 77.0), (layers[3].Rope!.Scaling, layers[3].Rope!.Theta));
        config = Config("gemma3_text");
        config["layer_types"] = new JsonArray("sliding_attention", "full_attention");
        config["rope_parameters"] = JsonNode.Parse("""{"rope_type": "linear", "factor": 8.0, "rope_theta": 500000.0}""");
        layers = DecoderConfig.Read(config, "here").Layers;
        Assert.Contains(layers, l => l.Window is not null && l.Rope is { Scaling: RopeScaling.Default, Theta: 10000 });
        Assert.Contains(layers, l => l.Window is null && l.Rope is { Scaling: RopeScaling.Linear, Theta: 500000 });
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

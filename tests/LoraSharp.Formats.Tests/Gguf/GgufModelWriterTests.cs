using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Gguf.Mapping;
using LoraSharp.Formats.Gguf.Tokenization;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Tests.Gguf;

public sealed class GgufModelWriterTests
{
    public static TheoryData<string> Models =>
    [
        "cohere2", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_pattern", "gemma3_text", "glm4", "gpt2", "gpt_neox", "gpt_neox_sequential", "granite", "granitemoe",
        "llama", "llama3", "llama_biases", "llama_linear_rope", "mistral", "mistral_tied", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "phi3_longrope", "qwen2",
        "qwen2_window", "qwen2_yarn", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
    ];

    [Theory]
    [MemberData(nameof(Models))]
    public void A_model_comes_back_as_it_was(string name)
    {
        using var folder = new TemporaryFolder();
        string path = folder.File("m.gguf");
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/" + name));
        GgufModelWriter.Write(path, source.Tensors, source.Config, SomeTokenizer(160), new GgufExportOptions { Type = GgufTensorType.F32 });
        if (Environment.GetEnvironmentVariable("LORASHARP_KEEP_GGUF") is { Length: > 0 } keep)
        {
            File.Copy(path, Path.Combine(keep, name + ".gguf"), overwrite: true);
        }

        using GgufCheckpoint back = GgufCheckpoint.Open(path);
        string[] expected = [.. source.Tensors.Tensors.Keys.Order(StringComparer.Ordinal)];
        Assert.Equal(expected, back.Tensors.Keys.Order(StringComparer.Ordinal));
        foreach (string tensor in expected)
        {
            Assert.Equal(source.Tensors.Tensors[tensor].Shape, back.Tensors[tensor].Shape);
            float[] wanted = GgufCheckpointTests.Floats(source.Tensors.Read(tensor));
            float[] found = GgufCheckpointTests.Floats(back.Read(tensor));
            for (int i = 0; i < wanted.Length; i++)
            {
                // 1 + w − 1 loses the last bits of w.
                if (Math.Abs(wanted[i] - found[i]) > (tensor.Contains("norm", StringComparison.Ordinal) ? 1e-7f : 0))
                {
                    Assert.Fail($"{tensor}[{i}]: {wanted[i]} and {found[i]}");
                }
            }
        }

        if (name == "mistral_tied")
        {
            // Without a window Mistral is Llama, and the file says no more than that.
            back.Config.Remove("model_type");
            back.Config.Remove("architectures");
        }

        CompareConfigs(source.Config, back.Config);
    }

    [Fact]
    public void A_head_size_that_the_architecture_cannot_hold_is_refused_by_name()
    {
        using var folder = new TemporaryFolder();
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/qwen2"));
        source.Config["head_dim"] = 16;

        var error = Assert.Throws<LoraSharpException>(() => GgufModelWriter.Write(folder.File("m.gguf"), source.Tensors, source.Config, SomeTokenizer(160), new GgufExportOptions { Type = GgufTensorType.F32 }));

        Assert.Contains("head_dim is 16, llama.cpp's qwen2 has hidden size / heads, 12", error.Message);
        Assert.False(File.Exists(folder.File("m.gguf")));
    }

    [Fact]
    public void A_quantised_file_of_the_reference_is_written_byte_for_byte()
    {
        using ModelSource source = ModelSource.OpenFolder(Fixtures.ReferenceOrSkip("fixtures/gguf/hf"));
        using var folder = new TemporaryFolder();
        foreach (GgufTensorType type in new[] { GgufTensorType.F32, GgufTensorType.F16, GgufTensorType.BF16, GgufTensorType.Q8_0, GgufTensorType.Q4_0, GgufTensorType.Q5_1 })
        {
            string path = folder.File("m.gguf");
            GgufModelWriter.Write(path, source.Tensors, source.Config, new GgufTokenizerFiles(), new GgufExportOptions { Type = type });
            using GgufFile made = GgufFile.Open(path);
            using GgufFile reference = GgufFile.Open(Fixtures.ReferenceOrSkip($"fixtures/gguf/tiny-{type.Name()}.gguf"));
            Assert.Equal(reference.Tensors.Keys.Order(StringComparer.Ordinal), made.Tensors.Keys.Order(StringComparer.Ordinal));
            foreach ((string name, GgufTensorInfo info) in reference.Tensors)
            {
                Assert.Equal(info.Type, made.Tensors[name].Type);
                Assert.Equal(info.Shape, made.Tensors[name].Shape);
                Assert.True(Bytes(reference, info).SequenceEqual(Bytes(made, made.Tensors[name])), $"{name} of {type}");
            }

            foreach (string key in reference.Metadata.Keys.Where(k => k.StartsWith("llama.", StringComparison.Ordinal)))
            {
                Assert.Equal(reference.Metadata[key].ToString(), made.Metadata[key].ToString());
            }
        }
    }

    [Fact]
    public void Rows_that_fill_no_blocks_fall_back_and_say_so()
    {
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var folder = new TemporaryFolder();
        GgufExportResult result = GgufModelWriter.Write(folder.File("m.gguf"), source.Tensors, source.Config, new GgufTokenizerFiles(), new GgufExportOptions { Type = GgufTensorType.Q4_K });
        Assert.Contains(result.Warnings, w => w.Contains("written as f16", StringComparison.Ordinal));
        Assert.Contains(result.Warnings, w => w.Contains("written as q5_0", StringComparison.Ordinal));
        Assert.Contains(result.Warnings, w => w.Contains("without a tokenizer", StringComparison.Ordinal));
    }

    [Fact]
    public void What_llama_cpp_would_compute_otherwise_is_refused()
    {
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        var config = (JsonObject)source.Config.DeepClone();
        config["hidden_act"] = "relu";
        using var folder = new TemporaryFolder();
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => GgufModelWriter.Write(folder.File("m.gguf"), source.Tensors, config, new GgufTokenizerFiles(), new GgufExportOptions()));
        Assert.Contains("hidden_act is \"relu\", llama.cpp's llama has \"silu\"", error.Message, StringComparison.Ordinal);
        config["hidden_act"] = "silu";
        config["rope_scaling"] = new JsonObject { ["rope_type"] = "dynamic", ["factor"] = 2.0 };
        Assert.Contains("'dynamic' has no counterpart", Assert.Throws<LoraSharpException>(() => GgufModelWriter.Write(folder.File("m.gguf"), source.Tensors, config, new GgufTokenizerFiles(), new GgufExportOptions())).Message, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(folder.Path));
    }

    /// <summary>The fixtures have none, and llama.cpp opens no model without one.</summary>
    private static GgufTokenizerFiles SomeTokenizer(int size)
    {
        var vocabulary = new JsonObject { ["\u010A"] = 0, ["<s>"] = 1, ["</s>"] = 2 };
        for (int i = 3; i < size; i++)
        {
            vocabulary[$"t{i}"] = i;
        }

        return new GgufTokenizerFiles
        {
            TokenizerJson = new JsonObject
            {
                ["pre_tokenizer"] = new JsonObject { ["type"] = "ByteLevel", ["add_prefix_space"] = false, ["use_regex"] = true },
                ["model"] = new JsonObject { ["type"] = "BPE", ["vocab"] = vocabulary, ["merges"] = new JsonArray() },
            },
        };
    }

    private static unsafe ReadOnlySpan<byte> Bytes(GgufFile file, GgufTensorInfo info) => new(file.Pointer(info), (int)info.ByteCount);

    /// <summary>Everything in the made configuration that the original has too must say the same.</summary>
    private static void CompareConfigs(JsonObject expected, JsonObject found)
    {
        string[] normalised = ["rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rotary_pct", "rotary_emb_base", "bos_token_id", "eos_token_id", "pad_token_id", "head_dim"];
        foreach ((string key, JsonNode? value) in found)
        {
            if (expected.ContainsKey(key) && !normalised.Contains(key) && expected[key] is { } wanted)
            {
                Assert.True(Same(wanted, value), $"{key}: {wanted.ToJsonString()} and {value?.ToJsonString() ?? "null"}");
            }
        }

        (double theta, JsonObject scaling, double partial) = GgufRope.Parameters(new GgufModelConfig("expected", expected));
        (double madeTheta, JsonObject madeScaling, double madePartial) = GgufRope.Parameters(new GgufModelConfig("found", found));
        Assert.Equal(theta, madeTheta);
        Assert.Equal(partial, madePartial);
        string Type(JsonObject of) => (string?)of["rope_type"] ?? (string?)of["type"] ?? "default";
        Assert.Equal(Type(scaling), Type(madeScaling));
        foreach ((string key, JsonNode? value) in scaling)
        {
            if (value is JsonValue or JsonArray && madeScaling.ContainsKey(key))
            {
                Assert.True(Same(value, madeScaling[key]), $"{key}: {value.ToJsonString()} and {madeScaling[key]?.ToJsonString()}");
            }
        }
    }

    private static bool Same(JsonNode? a, JsonNode? b) => (a, b) switch
    {
        (null, null) => true,
        (JsonArray x, JsonArray y) => x.Count == y.Count && x.Zip(y).All(p => Same(p.First, p.Second)),
        (JsonValue x, JsonValue y) when x.TryGetValue(out double p) && y.TryGetValue(out double q) => Math.Abs(p - q) <= 1e-6 * Math.Abs(p),
        _ => JsonNode.DeepEquals(a, b),
    };
}

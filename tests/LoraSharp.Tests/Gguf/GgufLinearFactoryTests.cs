using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Gguf.Tokenization;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Gguf;

/// <summary>Models that stay in the blocks of their file, against the same file dequantised.</summary>
public sealed class GgufLinearFactoryTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public GgufLinearFactoryTests() => NativeRuntime.EnsureLoaded();

    public static TheoryData<GgufTensorType> BlockTypes() => [.. GgufQuantizer.Types.Where(t => t.Plain() is null)];

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [MemberData(nameof(BlockTypes))]
    public void A_file_computes_as_its_dequantised_weights_do(GgufTensorType type)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using ModelSource source = Written(type, Rows256Model());
        foreach (ScalarType dtype in (ScalarType[])[ScalarType.Float32, ScalarType.BFloat16])
        {
            using var factory = new GgufLinearFactory(new DenseLinearFactory());
            using CausalLanguageModel dense = ModelLoader.Load(source, new DenseLinearFactory(), dtype, CPU);
            using CausalLanguageModel stored = ModelLoader.Load(source, factory, dtype, CPU);
            Assert.All(stored.Linears, l => Assert.IsType<QuantizedLinear>(l));
            Assert.IsType<StoredEmbedding>(Assert.Single(stored.Embeddings));
            foreach ((LinearLayer a, LinearLayer b) in dense.Linears.Zip(stored.Linears))
            {
                Assert.True(a.DenseWeight().equal(b.DenseWeight().to(dtype)).all().item<bool>(), a.Spec.Name);
            }

            Assert.True(dense.Embeddings[0].Weight.equal(stored.Embeddings[0].Weight).all().item<bool>());
            foreach (int length in (int[])[1, 3, 20])
            {
                Tensor ids = arange(3, 3 + length, ScalarType.Int64).unsqueeze(0);
                Tensor expected = Forward(dense, ids).to(ScalarType.Float32);
                double difference = (Forward(stored, ids).to(ScalarType.Float32) - expected).abs().max().item<float>();
                Assert.InRange(difference, 0, dtype == ScalarType.Float32 ? 1e-4 : 0.05 * expected.abs().max().item<float>());
            }
        }
    }

    [Theory]
    [InlineData("q4_0")]
    [InlineData("q8_0")]
    public void The_reference_files_give_the_logits_of_transformers(string type)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using ModelSource source = GgufCheckpoint.OpenModel(Fixtures.Path($"gguf/tiny-{type}.gguf"));
        using var factory = new GgufLinearFactory(new DenseLinearFactory());
        using CausalLanguageModel model = ModelLoader.Load(source, factory, ScalarType.Float32, CPU);
        Assert.Contains(model.Linears, l => l is QuantizedLinear);
        using SafetensorsFile golden = SafetensorsFile.Open(Fixtures.Path("gguf/golden.safetensors"));
        Tensor expected = TensorBytes.ToTensor(golden.Read($"{type}.logits"), null, CPU);
        Tensor ids = TensorBytes.ToTensor(golden.Read("input_ids"), null, CPU);
        Assert.InRange((Forward(model, ids) - expected).abs().max().item<float>(), 0, 1e-4);

        // The same through the kernels that decoding uses: a token at a time with a cache.
        using var cache = new KeyValueCache(model.LayerCount);
        for (long i = 0; i < ids.shape[1]; i++)
        {
            Tensor logits = model.Forward(ids.narrow(0, 0, 1).narrow(1, i, 1), tensor(new[] { i }).unsqueeze(0), cache);
            Assert.InRange((logits.view(-1) - expected[0, i]).abs().max().item<float>(), 0, 1e-4);
        }
    }

    [Fact]
    public void An_adapter_trains_and_answers_over_blocks_as_over_dense_weights()
    {
        using var scope = NewDisposeScope();
        using ModelSource source = GgufCheckpoint.OpenModel(Fixtures.Path("gguf/tiny-q8_0.gguf"));
        Tensor ids = arange(3, 15, ScalarType.Int64).unsqueeze(0);
        var results = new List<(float Loss, Tensor Gradient)>();
        foreach (bool stored in (bool[])[false, true])
        {
            using var adapters = new AdapterSet();
            using var factory = new GgufLinearFactory(new DenseLinearFactory());
            using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, stored ? factory : new DenseLinearFactory()), ScalarType.Float32, CPU);
            adapters.Create(new LoraOptions { Rank = 4 }, 7);
            adapters.Training = true;
            Tensor loss = Forward(model, ids).square().mean();
            loss.backward();
            results.Add((loss.item<float>(), cat([.. adapters.Trainable.Select(t => t.Value.grad!.view(-1))]).clone()));
        }

        Assert.Equal(results[0].Loss, results[1].Loss, 1e-5f);
        Assert.True(results[0].Gradient.abs().max().item<float>() > 0);
        Assert.InRange((results[0].Gradient - results[1].Gradient).abs().max().item<float>(), 0, 1e-5 * results[0].Gradient.abs().max().item<float>() + 1e-7);
    }

    [Fact]
    public void Nothing_is_left_behind()
    {
        using ModelSource source = GgufCheckpoint.OpenModel(Fixtures.Path("gguf/tiny-q4_0.gguf"));
        Load();
        long before = Tensor.TotalCount;
        Load();
        Assert.Equal(before, Tensor.TotalCount);

        void Load()
        {
            using var scope = NewDisposeScope();
            using var none = no_grad();
            using var factory = new GgufLinearFactory(new DenseLinearFactory());
            using CausalLanguageModel model = ModelLoader.Load(source, factory, ScalarType.Float32, CPU);
            Forward(model, arange(3, 5, ScalarType.Int64).unsqueeze(0));
            Forward(model, arange(3, 30, ScalarType.Int64).unsqueeze(0));
        }
    }

    private static Tensor Forward(CausalLanguageModel model, Tensor ids)
    {
        using var attention = new PaddedAttention();
        return model.Forward(ids, arange(ids.shape[1], ScalarType.Int64).unsqueeze(0), attention);
    }

    private ModelSource Written(GgufTensorType type, ModelSource model)
    {
        using (model)
        {
            string file = Path.Combine(_folder, "m.gguf");
            GgufModelWriter.Write(file, model.Tensors, model.Config, new GgufTokenizerFiles(), new GgufExportOptions { Type = type });
            return GgufCheckpoint.OpenModel(file);
        }
    }

    /// <summary>A small llama of random weights whose rows fill super-blocks of 256.</summary>
    private ModelSource Rows256Model()
    {
        const int Hidden = 256, Inner = 512, Vocabulary = 160;
        string folder = Path.Combine(_folder, "hf");
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "config.json"), $$"""
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": {{Hidden}}, "intermediate_size": {{Inner}}, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": {{Vocabulary}}, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
             "max_position_embeddings": 128, "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "float32"}
            """);
        using var scope = NewDisposeScope();
        random.manual_seed(5);
        var tensors = new List<(string, Tensor)> { ("model.embed_tokens.weight", randn(Vocabulary, Hidden)), ("model.norm.weight", ones(Hidden)) };
        for (int i = 0; i < 2; i++)
        {
            string layer = $"model.layers.{i}.";
            tensors.AddRange(
            [
                (layer + "input_layernorm.weight", ones(Hidden)), (layer + "post_attention_layernorm.weight", ones(Hidden)),
                (layer + "self_attn.q_proj.weight", randn(Hidden, Hidden) * 0.05), (layer + "self_attn.k_proj.weight", randn(Hidden / 2, Hidden) * 0.05),
                (layer + "self_attn.v_proj.weight", randn(Hidden / 2, Hidden) * 0.05), (layer + "self_attn.o_proj.weight", randn(Hidden, Hidden) * 0.05),
                (layer + "mlp.gate_proj.weight", randn(Inner, Hidden) * 0.05), (layer + "mlp.up_proj.weight", randn(Inner, Hidden) * 0.05),
                (layer + "mlp.down_proj.weight", randn(Hidden, Inner) * 0.05),
            ]);
        }

        SafetensorsWriter.Write(
            Path.Combine(folder, "model.safetensors"),
            tensors.Select(t => new TensorToWrite(new TensorInfo(t.Item1, ElementType.F32, [.. t.Item2.shape]), stream => TensorBytes.CopyTo(t.Item2, stream))));
        return ModelSource.OpenFolder(folder);
    }
}

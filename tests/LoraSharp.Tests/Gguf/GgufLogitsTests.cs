using LoraSharp.Adapters;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Gguf;

/// <summary>Models and adapters straight from GGUF files against transformers and PEFT on the weights that the files hold.</summary>
public sealed class GgufLogitsTests
{
    public GgufLogitsTests() => NativeRuntime.EnsureLoaded();

    [Theory]
    [InlineData("q4_0")]
    [InlineData("q8_0")]
    [InlineData("bf16")]
    [InlineData("f32")]
    [InlineData("f16")]
    [InlineData("q5_1")]
    public void A_file_gives_the_logits_of_transformers(string type)
    {
        using ModelSource source = GgufCheckpoint.OpenModel(File($"tiny-{type}.gguf"));
        using CausalLanguageModel model = ModelLoader.Load(source, new DenseLinearFactory(), ScalarType.Float32, CPU);
        Compare(model, $"{type}.logits", 1e-4);
    }

    [Fact]
    public void An_adapter_file_gives_the_logits_of_PEFT()
    {
        // The checkpoint's weights are bfloat16 numbers, so that this file holds the very same.
        using ModelSource source = GgufCheckpoint.OpenModel(Fixtures.Path("gguf/tiny-bf16.gguf"));
        using var set = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(set, new DenseLinearFactory()), ScalarType.Float32, CPU);
        using AdapterFolder adapter = GgufAdapter.Open(Fixtures.Path("gguf/adapter-f32.gguf"), source.Config);
        set.Load(adapter, "a");
        set.Select("a");
        Compare(model, "adapter.logits", 1e-4);
        set.SelectNone();
        Compare(model, "f32.logits", 1e-4);
    }

    [Fact]
    public void The_real_file_gives_the_logits_of_its_unpacked_folder()
    {
        // The folder's weights are rounded to bfloat16, so this is where the two must be the same.
        using ModelSource file = GgufCheckpoint.OpenModel(Fixtures.ReferenceOrSkip("models/smollm2-135m-instruct/model.q4_1.gguf"));
        using ModelSource folder = ModelSource.OpenFolder(Fixtures.ReferenceOrSkip("unpacked/smollm2-135m-instruct"));
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        Tensor ids = arange(1000, 1024, ScalarType.Int64).unsqueeze(0);
        Tensor[] logits =
        [
            .. new[] { file, folder }.Select(source =>
            {
                using CausalLanguageModel model = ModelLoader.Load(source, new DenseLinearFactory(), ScalarType.BFloat16, CPU);
                return Forward(model, ids).to(ScalarType.Float32);
            }),
        ];
        Assert.Equal(0, (logits[0] - logits[1]).abs().max().item<float>());
    }

    private static void Compare(CausalLanguageModel model, string golden, double tolerance)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        using SafetensorsFile file = SafetensorsFile.Open(Fixtures.Path("gguf/golden.safetensors"));
        Tensor logits = Forward(model, TensorBytes.ToTensor(file.Read("input_ids"), null, CPU));
        float difference = (logits - TensorBytes.ToTensor(file.Read(golden), null, CPU)).abs().max().item<float>();
        Assert.InRange(difference, 0, tolerance);
    }

    private static Tensor Forward(CausalLanguageModel model, Tensor ids)
    {
        using var attention = new PaddedAttention();
        return model.Forward(ids, arange(ids.shape[1], ScalarType.Int64).unsqueeze(0), attention);
    }

    private static string File(string name)
    {
        string inside = System.IO.Path.Combine(Fixtures.Root(), "tests", "Fixtures", "gguf", name);
        return System.IO.File.Exists(inside) ? inside : Fixtures.ReferenceOrSkip("fixtures/gguf/" + name);
    }
}

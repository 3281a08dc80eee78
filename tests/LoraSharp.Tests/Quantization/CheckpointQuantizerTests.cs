using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

public sealed class CheckpointQuantizerTests : IDisposable
{
    private readonly string _folder = Path.Combine(Directory.CreateTempSubdirectory("lora-q-").FullName, "out");

    public CheckpointQuantizerTests() => NativeRuntime.EnsureLoaded();

    [Fact]
    public void WritesWhatTransformersWrites()
    {
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("nf4/base_bf16"));
        QuantizationReport report = CheckpointQuantizer.Quantize(source, _folder, new QuantizationOptions());
        Assert.Equal(14, report.Matrices);
        Assert.Equal(["lm_head"], report.Kept);
        Assert.InRange(report.Error, 0.07, 0.12);
        Assert.Equal(File.ReadAllBytes(Fixtures.Path("nf4/bnb_nf4_double/model.safetensors")).Length, File.ReadAllBytes(Path.Combine(_folder, "model.safetensors")).Length, 600.0);
        Assert.Equal(report.Weights * 2, report.DenseBytes);
    }

    /// <summary>GPT-2 stores [k, f]; transformers quantises the transposed matrix.</summary>
    [Theory]
    [InlineData("gpt2")]
    [InlineData("llama")]
    [InlineData("qwen2")]
    [InlineData("phi3")]
    [InlineData("mixtral")]
    public void QuantisedModelsLoadAndStayNearTheOriginal(string name)
    {
        using var scope = NewDisposeScope();
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/" + name));
        CheckpointQuantizer.Quantize(source, _folder, new QuantizationOptions { BlockSize = 32 });
        using ModelSource read = BitsAndBytesSource.Unwrap(ModelSource.OpenFolder(_folder));
        Tensor ids = arange(3, 15).unsqueeze(0);
        Tensor original = Logits(source, new DenseLinearFactory());
        Tensor dense = Logits(read, new DenseLinearFactory());
        Tensor quantized = Logits(read, new Nf4LinearFactory(null, new DenseLinearFactory()));
        Assert.True(quantized.allclose(dense, 1e-4, 1e-4), $"{(quantized - dense).abs().max().item<float>()}");
        double away = ((dense - original).norm() / original.norm()).item<float>();
        Assert.InRange(away, 1e-4, 0.5);

        Tensor Logits(ModelSource model, ILinearFactory factory)
        {
            using var none = no_grad();
            using CausalLanguageModel loaded = ModelLoader.Load(model, factory, ScalarType.Float32, CPU);
            Assert.Equal(factory is Nf4LinearFactory, loaded.Linears.Any(l => l is QuantizedLinear));
            using var attention = new PaddedAttention();
            Tensor logits = loaded.Forward(ids, arange(12).unsqueeze(0), attention);
            (factory as IDisposable)?.Dispose();
            return logits;
        }
    }

    [Theory]
    [InlineData(LowRankStartKind.LoftQ)]
    [InlineData(LowRankStartKind.QPissa)]
    public void LowRankStartsAreNearerThanThePlainOne(LowRankStartKind kind)
    {
        using var scope = NewDisposeScope();
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("nf4/base_bf16"));
        QuantizationReport report = CheckpointQuantizer.Quantize(source, _folder, new QuantizationOptions(), new LowRankStartOptions(kind, new LoraOptions { Rank = 16, Alpha = 8 }));
        Assert.True(report.Error < 0.9 * report.PlainError, $"{report.Error} is not clearly less than {report.PlainError}");

        // What is reported is what the two folders give when they are loaded.
        using ModelSource read = BitsAndBytesSource.Unwrap(ModelSource.OpenFolder(_folder));
        using AdapterFolder adapter = AdapterFolder.Open(report.AdapterFolder!);
        Assert.Equal(28, adapter.Tensors.Tensors.Count);
        const string Layer = "model.layers.1.mlp.up_proj";
        Tensor w = Read(source.Tensors, Layer + ".weight");
        Tensor q = Read(read.Tensors, Layer + ".weight");
        Tensor a = Read(adapter.Tensors, $"base_model.model.{Layer}.lora_A.weight");
        Tensor b = Read(adapter.Tensors, $"base_model.model.{Layer}.lora_B.weight");
        double with = ((w - q - (b.mm(a) * 0.5)).norm() / w.norm()).item<float>();
        Assert.InRange(with, report.Error * 0.7, report.Error * 1.3);

        static Tensor Read(ITensorSource tensors, string name) => TensorBytes.ToTensor(tensors.Read(name), ScalarType.Float32, CPU);
    }

    [Fact]
    public void QuantisingTwiceOrInPlaceIsRefused()
    {
        using ModelSource quantized = ModelSource.OpenFolder(Fixtures.Path("nf4/bnb_nf4"));
        Assert.Contains("quantised already", Assert.Throws<LoraSharpException>(() => CheckpointQuantizer.Quantize(quantized, _folder, new QuantizationOptions())).Message, StringComparison.Ordinal);
        using ModelSource dense = ModelSource.OpenFolder(Fixtures.Path("nf4/base_bf16"));
        Assert.Contains("the model itself", Assert.Throws<LoraSharpException>(() => CheckpointQuantizer.Quantize(dense, dense.Location, new QuantizationOptions())).Message, StringComparison.Ordinal);
        Assert.Contains("no linear layer is left", Assert.Throws<LoraSharpException>(() => CheckpointQuantizer.Quantize(dense, _folder, new QuantizationOptions { SkipModules = ["model"] })).Message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(_folder));
    }

    public void Dispose() => Directory.Delete(Path.GetDirectoryName(_folder)!, true);
}

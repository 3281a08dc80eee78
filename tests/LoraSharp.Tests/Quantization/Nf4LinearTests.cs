using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

public sealed class Nf4LinearTests
{
    private static readonly QuantizationOptions Options = new();

    public Nf4LinearTests() => NativeRuntime.EnsureLoaded();

    [Theory]
    [InlineData(FourBitType.Nf4, 64, true, ScalarType.BFloat16)]
    [InlineData(FourBitType.Nf4, 128, false, ScalarType.Float32)]
    [InlineData(FourBitType.Fp4, 32, true, ScalarType.Float16)]
    [InlineData(FourBitType.Fp4, 4096, false, ScalarType.BFloat16)]
    public void OperatorsGiveWhatTheKernelsGive(FourBitType type, int blockSize, bool twice, ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        foreach (long columns in (long[])[77, 256])
        {
            // Small values reach the subnormal halves.
            Tensor matrix = (randn(33, columns) * rand(33, 1).pow(8)).to(dtype);
            using FourBitWeight weight = FourBitWeight.Quantize(matrix, "w", Options with { Type = type, BlockSize = blockSize, DoubleQuantization = twice }, CPU);
            Tensor reference = weight.DequantizeByOperators();
            Assert.Equal(dtype, reference.dtype);
            foreach (ScalarType target in (ScalarType[])[ScalarType.Float32, ScalarType.BFloat16, ScalarType.Float16])
            {
                using Tensor values = weight.Dequantize(target);
                Assert.True(values.equal(reference.to(target)).all().item<bool>(), $"{type} {dtype} → {target}, {columns} columns");
            }
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(5)]
    [InlineData(40)]
    public void ForwardAndInputGradientEqualTheDenseLayer(long rows)
    {
        using var scope = NewDisposeScope();
        var spec = new LinearSpec("layer", 128, 96, HasBias: true);
        Tensor matrix = randn(96, 128).to(ScalarType.BFloat16);
        using var buffer = new DequantizationBuffer();
        using var layer = new QuantizedLinear(spec, FourBitWeight.Quantize(matrix, "w", Options, CPU), randn(96).DetachFromDisposeScope(), buffer);
        using Tensor dense = layer.DenseWeight();
        Assert.Equal(ScalarType.BFloat16, dense.dtype);
        Tensor x = randn(2, rows, 128, requires_grad: true);
        Tensor x2 = x.detach().clone().requires_grad_();
        Tensor y = layer.Forward(x);
        Tensor y2 = nn.functional.linear(x2, dense.to(ScalarType.Float32), layer.Bias!);
        Assert.True(y.allclose(y2, 1e-5, 1e-5), $"forward differs by {(y - y2).abs().max().item<float>()}");
        Tensor seed = randn_like(y);
        (y * seed).sum().backward();
        (y2 * seed).sum().backward();
        Assert.True(x.grad!.allclose(x2.grad!, 1e-5, 1e-5));
        using (no_grad())
        {
            Assert.True(layer.Forward(x).allclose(y, 1e-5, 1e-5));
        }
    }

    [Fact]
    public void GraphsFreeTheirNodesAndTensors()
    {
        using var buffer = new DequantizationBuffer();
        using var layer = new QuantizedLinear(new LinearSpec("layer", 64, 64, false), FourBitWeight.Quantize(randn(64, 64), "w", Options, CPU), null, buffer);
        long after = 0;
        for (int step = 0; step < 6; step++)
        {
            using (NewDisposeScope())
            {
                Tensor x = randn(20, 64, requires_grad: true);
                Tensor y = layer.Forward(layer.Forward(layer.Forward(x)).tanh());
                y.sum().backward();
                Assert.NotNull(x.grad);
            }

            after = step == 2 ? Tensor.TotalCount : after;
        }

        Assert.Equal(after, Tensor.TotalCount);
    }

    [Fact]
    public void LayersShareOnePieceOfMemory()
    {
        using var scope = NewDisposeScope();
        using var buffer = new DequantizationBuffer();
        using FourBitWeight large = FourBitWeight.Quantize(randn(64, 128), "w", Options, CPU);
        using FourBitWeight small = FourBitWeight.Quantize(randn(64, 64), "w", Options, CPU);
        List<nint> places = [];
        foreach (FourBitWeight weight in (FourBitWeight[])[large, small, large, small])
        {
            buffer.Use(weight, ScalarType.Float32, w =>
            {
                places.Add(AtenTensor.DataPointer(w));
                return zeros(1);
            });
        }

        Assert.Single(places.Distinct());
    }

    [Fact]
    public void AFailureInBackwardIsAnExceptionNotTheEndOfTheProcess()
    {
        using var scope = NewDisposeScope();
        using var nodes = new GradientNodes();
        Tensor x = randn(3, requires_grad: true);
        Tensor y = GradientNode.Attach([x], ones(3), _ => throw new InvalidOperationException("the reason"), nodes);
        Assert.ThrowsAny<Exception>(() => y.sum().backward());
        Assert.Equal("the reason", nodes.Fault!.Message);
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => GradientNode.Attach([x], ones(3), g => [g], nodes));
        Assert.Contains("the reason", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void NodesTakeSeveralInputs()
    {
        using var scope = NewDisposeScope();
        using var nodes = new GradientNodes();
        Tensor a = randn(3, requires_grad: true);
        Tensor b = randn(3, requires_grad: true);
        Tensor c = randn(3);
        Tensor product;
        using (no_grad())
        {
            product = a * b;
        }

        Tensor y = GradientNode.Attach([a, b, c], product, g => [g * b, g * a, null], nodes);
        y.sum().backward();
        Assert.True(a.grad!.allclose(b));
        Assert.True(b.grad!.allclose(a));
        Assert.Null(c.grad);
    }

    [Fact]
    public void NotANumberIsNamed()
    {
        using Tensor matrix = ones(4, 64);
        matrix[2, 5] = float.NaN;
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => FourBitWeight.Quantize(matrix, "model.layers.0.q_proj.weight", Options, CPU));
        Assert.Contains("model.layers.0.q_proj.weight: weights 128 to 191", error.Message, StringComparison.Ordinal);
        matrix[2, 5] = float.PositiveInfinity;
        Assert.Throws<LoraSharpException>(() => FourBitWeight.Quantize(matrix, "w", Options, CPU));
    }

    [Theory]
    [InlineData("bnb_nf4")]
    [InlineData("bnb_nf4_double")]
    public void BitsandbytesCheckpointIsReadAsItIs(string name)
    {
        using ModelSource source = BitsAndBytesSource.Unwrap(ModelSource.OpenFolder(Fixtures.Path("nf4/" + name)));
        Assert.False(source.Config.ContainsKey("quantization_config"));
        Assert.DoesNotContain(source.Tensors.Tensors.Keys, k => k.Contains("absmax", StringComparison.Ordinal) || k.Contains("quant", StringComparison.Ordinal));
        using var scope = NewDisposeScope();
        Tensor dense = TensorBytes.ToTensor(source.Tensors.Read("model.layers.0.self_attn.q_proj.weight"), ScalarType.Float32, CPU);
        Tensor golden = Golden(name, "layers.0.q_proj.dequant");
        using FourBitWeight stored = ((BitsAndBytesSource)source.Tensors).FindFourBit("model.layers.0.self_attn.q_proj.weight")!.Load(CPU);
        Assert.True(golden.equal(CpuRepacking.Misread(stored)).all().item<bool>());

        using var reader = new WeightReader(source.Tensors, ScalarType.Float32, CPU);
        using var factory = new Nf4LinearFactory(null, new DenseLinearFactory());
        using LinearLayer layer = factory.CreateLinear(new LinearSpec("model.layers.0.self_attn.q_proj", 128, 128, false), reader);
        using LinearLayer head = factory.CreateLinear(new LinearSpec("lm_head", 128, 160, false) { IsOutputHead = true }, reader);
        Assert.IsType<QuantizedLinear>(layer);
        Assert.IsType<DenseLinear>(head);
        using Tensor weight = layer.DenseWeight();
        Assert.True(dense.equal(weight.to(ScalarType.Float32)).all().item<bool>());
        Assert.Equal(name == "bnb_nf4" ? 8192 + 1024 : 8192 + 256 + 4, factory.QuantizedBytes);
    }

    [Fact]
    public void FactoryLeavesOutWhatIsNotQuantised()
    {
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("nf4/base_bf16"));
        using var reader = new WeightReader(source.Tensors, ScalarType.Float32, CPU);
        using var factory = new Nf4LinearFactory(Options with { SkipModules = ["down_proj", "layers.1"] }, new DenseLinearFactory());
        using LinearLayer up = factory.CreateLinear(new LinearSpec("model.layers.0.mlp.up_proj", 128, 192, false), reader);
        using LinearLayer down = factory.CreateLinear(new LinearSpec("model.layers.0.mlp.down_proj", 192, 128, false), reader);
        using LinearLayer router = factory.CreateLinear(new LinearSpec("model.layers.0.self_attn.q_proj", 128, 128, false) { KeepPrecision = true }, reader);
        using LinearLayer second = factory.CreateLinear(new LinearSpec("model.layers.1.mlp.up_proj", 128, 192, false), reader);
        using LinearLayer head = factory.CreateLinear(new LinearSpec("lm_head", 128, 160, false) { IsOutputHead = true }, reader);
        Assert.IsType<QuantizedLinear>(up);
        Assert.All([down, router, second, head], layer => Assert.IsType<DenseLinear>(layer));

        using LinearLayer missing = factory.CreateLinear(new LinearSpec("model.layers.9.mlp.up_proj", 128, 192, false), reader);
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => reader.ThrowIfFaulty(_ => true));
        Assert.Contains("missing: model.layers.9.mlp.up_proj.weight", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void OptionsListEveryFault()
    {
        LoraSharpException error = Assert.Throws<LoraSharpException>(() => new QuantizationOptions { BlockSize = 48, SkipModules = [""] }.Validate());
        Assert.Contains("48", error.Message, StringComparison.Ordinal);
        Assert.Contains("skip_modules", error.Message, StringComparison.Ordinal);
    }

    private static Tensor Golden(string name, string tensor)
    {
        using var file = LoraSharp.Formats.Safetensors.SafetensorsFile.Open(Fixtures.Path($"nf4/{name}/golden.safetensors"));
        using Tensor mapped = TensorBytes.ToTensor(file.Read(tensor), null, CPU);
        return mapped.clone();
    }
}

using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

public sealed unsafe class Q8Tests
{
    public Q8Tests() => NativeRuntime.EnsureLoaded();

    [Fact]
    public void EveryVersionOfTheKernelGivesTheProduct()
    {
        using var scope = NewDisposeScope();
        foreach ((long f, long k) in ((long, long)[])[(3, 32), (7, 96), (65, 576), (300, 2048)])
        {
            using Q8Weight weight = Q8Weight.Quantize(randn(f, k), "w", CPU);
            Tensor dense = weight.Dequantize(ScalarType.Float32);
            foreach (long rows in (long[])[1, 3, 8])
            {
                Tensor x = randn(rows, k);
                Tensor expected = x.mm(dense.t());
                Tensor codes = weight.Named("w").First().Value;
                Tensor scales = weight.Named("w").Last().Value;
                foreach (VectorWidth width in FourBitKernelTests.Widths())
                {
                    Tensor y = zeros(rows, f);
                    Q8Multiplier.Multiply((sbyte*)AtenTensor.DataPointer(codes), (float*)AtenTensor.DataPointer(scales), (float*)AtenTensor.DataPointer(x), (float*)AtenTensor.DataPointer(y), (int)rows, (int)k, (int)f, width);
                    Assert.True(y.allclose(expected, 1e-5, 1e-4 * Math.Sqrt(k)), $"{width} {f} {k} {rows}");
                }
            }
        }
    }

    [Fact]
    public void ErrorIsHalfAStepAtMost()
    {
        using var scope = NewDisposeScope();
        Tensor w = randn(64, 256);
        w[3] = zeros(256);
        using Q8Weight weight = Q8Weight.Quantize(w, "w", CPU);
        Tensor steps = w.view(64, 8, 32).abs().amax([2], keepdim: true) / 127.0;
        Tensor error = (weight.Dequantize(ScalarType.Float32) - w).abs().view(64, 8, 32);
        Assert.True((error <= (steps * 0.57)).all().item<bool>());
        Assert.Equal(64 * 256 * 1.125, weight.Bytes);
    }

    /// <summary>A Q8_0 file keeps its values: the same codes and scales come out.</summary>
    [Fact]
    public void FileInQ8IsKeptAsItIs()
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using ModelSource source = GgufCheckpoint.OpenModel(Fixtures.ReferenceOrSkip("fixtures/gguf/tiny-q8_0.gguf"));
        using var factory = new Q8LinearFactory(new DenseLinearFactory());
        using CausalLanguageModel dense = ModelLoader.Load(source, new DenseLinearFactory(), ScalarType.Float32, CPU);
        using CausalLanguageModel quantized = ModelLoader.Load(source, factory, ScalarType.Float32, CPU);
        Assert.Contains(quantized.Linears, l => l is QuantizedLinear);
        foreach ((LinearLayer a, LinearLayer b) in dense.Linears.Zip(quantized.Linears).Where(p => p.Second is QuantizedLinear))
        {
            Assert.True(a.DenseWeight().equal(b.DenseWeight()).all().item<bool>(), a.Spec.Name);
        }

        foreach (int length in (int[])[3, 20])
        {
            using var attention = new PaddedAttention();
            Tensor ids = arange(3, 3 + length).unsqueeze(0);
            Tensor positions = arange(length).unsqueeze(0);
            Assert.True(dense.Forward(ids, positions, attention).allclose(quantized.Forward(ids, positions, attention), 1e-4, 1e-4));
        }
    }
}

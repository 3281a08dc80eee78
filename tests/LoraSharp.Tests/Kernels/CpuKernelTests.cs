using LoraSharp.Kernels.Cpu;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Kernels;

/// <summary>Each kernel against libtorch's own operators; odd sizes have a tail that no vector covers.</summary>
public class CpuKernelTests
{
    public CpuKernelTests()
    {
        NativeRuntime.EnsureLoaded();
        manual_seed(1);
    }

    [Theory]
    [CombinatorialSizes]
    public void FewRowsProductIsLinear(int rows, int k, int f, bool bias, ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor x = randn([rows, k]).to(dtype), w = randn([f, k]).to(dtype);
        Tensor? b = bias ? randn([f]).to(dtype) : null;
        Tensor wide = nn.functional.linear(x.to(ScalarType.Float64), w.to(ScalarType.Float64), b?.to(ScalarType.Float64));
        Near(wide, FewRowsProduct.Multiply(x, w, b, rows, k, f, [rows, f]), dtype);
    }

    [Theory]
    [InlineData(ScalarType.Float32, 48)]
    [InlineData(ScalarType.Float32, 37)]
    [InlineData(ScalarType.BFloat16, 64)]
    [InlineData(ScalarType.BFloat16, 19)]
    public void RmsNormIsTheComposedOne(ScalarType dtype, int size)
    {
        using var scope = NewDisposeScope();
        Tensor x = randn([3, 5, size]).to(dtype), w = randn([size]).to(dtype);
        foreach ((float offset, bool roundFirst) in new[] { (0f, true), (0f, false), (1f, false) })
        {
            Tensor wide = x.to(ScalarType.Float32);
            Tensor scaled = wide * (wide.square().mean([-1], keepdim: true) + 1e-5).rsqrt();
            Tensor expected = roundFirst ? scaled.to(dtype) * w : (scaled * (w.to(ScalarType.Float32) + offset)).to(dtype);
            Near(expected, RmsNormKernel.Forward(x, w, 1e-5, offset, roundFirst), dtype);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32, 64, 64, false)]
    [InlineData(ScalarType.Float32, 48, 20, false)]
    [InlineData(ScalarType.Float32, 48, 20, true)]
    [InlineData(ScalarType.BFloat16, 64, 32, false)]
    [InlineData(ScalarType.BFloat16, 12, 12, true)]
    public void RotaryIsTheComposedOne(ScalarType dtype, int size, int rotated, bool interleaved)
    {
        using var scope = NewDisposeScope();
        Tensor positions = tensor(new long[] { 0, 1, 2, 7, 8, 9 }).view(2, 3);
        RotaryAngles angles = RotaryEmbedding.Angles(new() { Dimensions = rotated, Interleaved = interleaved }, positions, 0, dtype);
        Tensor x = randn([2, 3, 4 * size]).to(dtype).view(2, 3, 4, size).transpose(1, 2);
        Tensor expected = RotaryEmbedding.Apply(x, angles);
        using var frozen = no_grad();
        Near(expected, RotaryEmbedding.Apply(x, angles), dtype);
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void SiluProductIsTheComposedOne(ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        Tensor gate = (randn([2, 51]) * 8).to(dtype), up = randn([2, 51]).to(dtype);
        Near(nn.functional.silu(gate) * up, SiluProductKernel.Forward(gate, up), dtype);
    }

    [Theory]
    [InlineData(ScalarType.Float32, 7, 64, 64, 0, false)]
    [InlineData(ScalarType.Float32, 40, 24, 16, 30, true)]
    [InlineData(ScalarType.Float32, 300, 64, 64, 0, false)]
    [InlineData(ScalarType.BFloat16, 33, 20, 20, 0, true)]
    public void DecodeAttentionIsThePlainOne(ScalarType dtype, int tokens, int size, int valueSize, double cap, bool sinks)
    {
        using var scope = NewDisposeScope();
        Tensor q = randn([2, 6, 1, size]).to(dtype);
        Tensor k = randn([2, 2, tokens + 5, size]).to(dtype).narrow(2, 3, tokens), v = randn([2, 2, tokens + 5, valueSize]).to(dtype).narrow(2, 3, tokens);
        Tensor? s = sinks ? randn([6]).to(dtype) : null;
        var spec = new AttentionSpec { Scale = 0.3, SoftCap = cap == 0 ? null : cap, Sinks = s };
        Near(AttentionMath.Plain(q, k, v, spec, null), DecodeAttention.Attend(q, k, v, new(0.3f, (float)cap), s), dtype);
    }

    private static void Near(Tensor expected, Tensor actual, ScalarType dtype)
    {
        Assert.Equal(dtype, actual.dtype);
        Assert.Equal(expected.shape, actual.shape);
        using Tensor difference = (expected.to(ScalarType.Float64) - actual.to(ScalarType.Float64)).abs().max() / expected.to(ScalarType.Float64).abs().max();
        Assert.InRange(difference.item<double>(), 0, dtype == ScalarType.Float32 ? 2e-6 : 1.0 / 128);
    }

    private sealed class CombinatorialSizesAttribute : Xunit.v3.DataAttribute
    {
        public override ValueTask<IReadOnlyCollection<ITheoryDataRow>> GetData(System.Reflection.MethodInfo testMethod, Xunit.Sdk.DisposalTracker disposalTracker)
        {
            List<ITheoryDataRow> rows = [];
            foreach (ScalarType dtype in new[] { ScalarType.Float32, ScalarType.BFloat16 })
            {
                foreach ((int m, int k, int f) in new[] { (1, 576, 1536), (1, 48, 7), (2, 37, 33), (4, 64, 3), (3, 1, 1) })
                {
                    rows.Add(new TheoryDataRow(m, k, f, m != 2, dtype));
                }
            }

            return new(rows);
        }

        public override bool SupportsDiscoveryEnumeration() => true;
    }
}

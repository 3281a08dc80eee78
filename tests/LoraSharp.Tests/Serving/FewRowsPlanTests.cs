using LoraSharp.Quantization;
using LoraSharp.Serving.Cuda;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Serving;

public sealed class FewRowsPlanTests
{
    private static readonly (long[] Outputs, long K)[] Shapes =
    [
        ([4096, 1024, 1024], 4096), ([4096], 4096), ([14336, 14336], 4096), ([4096], 14336),
        ([2048, 512, 512], 2048), ([8192, 8192], 2048), ([2048], 8192), ([64, 8, 8], 32), ([29568, 29568], 8192), ([8192], 29568),
    ];

    [Fact]
    public void Every_plan_covers_the_product_and_fits_an_Ampere_card()
    {
        foreach ((long[] outputs, long k) in Shapes)
        {
            foreach (int block in (int[])[32, 64, 256, 4096])
            {
                foreach (int n in (int[])[1, 8, 9, 16, 17, 32, 33, 64, 65, 200, 256])
                {
                    FewRowsPlan plan = FewRowsPlan.Of(n, outputs, k, block, 132);
                    int inputs = 128 * 8 / plan.RowGroups;
                    int steps = (int)((k + inputs - 1) / inputs);
                    Assert.InRange(plan.Parts, 1, steps);
                    Assert.True(plan.Pieces * plan.Rows >= n && (plan.Pieces - 1) * plan.Rows < n);
                    Assert.Equal(outputs.Sum(f => (f + plan.Outputs - 1) / plan.Outputs), plan.OutputTiles);
                    Assert.InRange(plan.SharedBytes, 1, FewRowsPlan.MostSharedBytes);
                    Assert.Equal(plan.Parts > 1, plan.PartialSums > 0);
                    Assert.Equal(1, plan.ScaleColumns % 2);
                    // The widest row of the table of scales: blocks that the first to the last weight of a part of k lie in, at the worst start.
                    for (int part = 0; part < plan.Parts; part++)
                    {
                        long from = (long)(steps * part / plan.Parts) * inputs;
                        long to = Math.Min(k, (long)(steps * (part + 1) / plan.Parts) * inputs);
                        long most = Enumerable.Range(0, 200).Max(row => ((((row * k) + to - 1) / block) - (((row * k) + from) / block)) + 1);
                        Assert.InRange(most, 1, plan.ScaleColumns);
                    }
                }
            }
        }
    }

    [Fact]
    public void Small_matrices_are_split_along_k_until_the_device_is_busy()
    {
        FewRowsPlan output = FewRowsPlan.Of(8, [4096], 4096, 64, 132);
        Assert.True(output.Parts > 1);
        Assert.InRange(output.OutputTiles * output.Parts, 100, 2 * 132);
        FewRowsPlan none = FewRowsPlan.Of(8, [131072], 4096, 64, 132);
        Assert.True(none.OutputTiles * none.Parts >= 132);
    }

    [Fact]
    public void Matrices_that_do_not_go_together_say_why()
    {
        using FourBitWeight nf4 = Weight(64, 64, new QuantizationOptions());
        using FourBitWeight fp4 = Weight(64, 64, new QuantizationOptions { Type = FourBitType.Fp4 });
        using FourBitWeight wide = Weight(64, 64, new QuantizationOptions { BlockSize = 128 });
        using FourBitWeight half = Weight(64, 64, new QuantizationOptions(), ScalarType.Float16);
        using FourBitWeight odd = Weight(64, 48, new QuantizationOptions());
        using FourBitWeight few = Weight(12, 64, new QuantizationOptions());
        Assert.Null(FourBitMatrix.Obstacle([nf4, nf4, nf4]));
        Assert.Contains("one type and block size", FourBitMatrix.Obstacle([nf4, fp4]), StringComparison.Ordinal);
        Assert.Contains("one type and block size", FourBitMatrix.Obstacle([nf4, wide]), StringComparison.Ordinal);
        Assert.Contains("float16", FourBitMatrix.Obstacle([half]), StringComparison.Ordinal);
        Assert.Contains("multiple of 32", FourBitMatrix.Obstacle([odd]), StringComparison.Ordinal);
        Assert.Contains("of 8", FourBitMatrix.Obstacle([few]), StringComparison.Ordinal);
        Assert.Contains("not 4", FourBitMatrix.Obstacle([nf4, nf4, nf4, nf4]), StringComparison.Ordinal);
    }

    [Fact]
    public void The_values_of_parts_lie_under_each_other()
    {
        using var scope = NewDisposeScope();
        using FourBitWeight first = Weight(64, 64, new QuantizationOptions());
        using FourBitWeight second = Weight(8, 64, new QuantizationOptions { DoubleQuantization = false });
        Tensor all = new FourBitMatrix([first, second]).Dequantize();
        Assert.Equal([72, 64], all.shape);
        Assert.True(all.narrow(0, 0, 64).eq(first.Dequantize(ScalarType.BFloat16)).all().item<bool>());
        Assert.True(all.narrow(0, 64, 8).eq(second.Dequantize(ScalarType.BFloat16)).all().item<bool>());
    }

    private static FourBitWeight Weight(long rows, long columns, QuantizationOptions options, ScalarType type = ScalarType.BFloat16)
    {
        using Tensor matrix = (arange(rows * columns, ScalarType.Float32) * 0.37).sin().view(rows, columns).to(type);
        return FourBitWeight.Quantize(matrix, "test", options, CPU);
    }
}

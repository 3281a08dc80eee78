using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Tests.Models;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Cuda;

/// <summary>What only a GPU shows; the suites against transformers, PEFT and bitsandbytes run there too, in float32 (<see cref="TestDevice"/>).</summary>
public sealed class GpuNumbersTests
{
    // Their router chooses another expert after rounding, as it does for transformers.
    private static readonly string[] Chaotic = ["gpt_oss", "olmoe"];

    public static TheoryData<string> Checkpoints => GoldenModelTests.Checkpoints;

    [Theory]
    [MemberData(nameof(Checkpoints))]
    public void LogitsInBfloat16AreNear(string name)
    {
        Device device = TestDevice.GpuOrSkip();
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        using var golden = new Golden(name, dtype: ScalarType.BFloat16);
        Tensor ids = golden.Read("input_ids").to(device);
        using var attention = new PaddedAttention();
        Tensor logits = golden.Model.Forward(ids, Golden.Arange(ids), attention).to(ScalarType.Float32);
        Assert.InRange(Golden.Difference(golden.Read("logits"), logits), 0, Chaotic.Contains(name) ? 0.3 : 0.05);
    }

    /// <summary>bitsandbytes' codes and scales, quantised where the matrix lies; and the CPU's values back.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void FourBitCodesAreBitEqual(int weight)
    {
        Device device = TestDevice.GpuOrSkip();
        using var scope = NewDisposeScope();
        using var golden = SafetensorsFile.Open(Fixtures.Path("nf4/nf4.safetensors"));
        Tensor matrix = TensorBytes.ToTensor(golden.Read($"{weight}.weight"), null, device);
        foreach (int blockSize in (int[])[64, 128])
        {
            using FourBitWeight plain = FourBitWeight.Quantize(matrix, "w", new QuantizationOptions { BlockSize = blockSize, DoubleQuantization = false }, device);
            Equal($"{weight}.bs{blockSize}.plain.packed", plain.Packed);
            Equal($"{weight}.bs{blockSize}.plain.absmax", plain.Absmax);
            using FourBitWeight twice = FourBitWeight.Quantize(matrix, "w", new QuantizationOptions { BlockSize = blockSize, DoubleQuantization = true }, device);
            Equal($"{weight}.bs{blockSize}.dq.nested_absmax", twice.NestedAbsmax!);
            using FourBitWeight here = FourBitWeight.Quantize(matrix.cpu(), "w", new QuantizationOptions { BlockSize = blockSize, DoubleQuantization = true }, CPU);
            Assert.True(here.Dequantize(ScalarType.Float32).equal(twice.Dequantize(ScalarType.Float32).cpu()).all().item<bool>(), "values back");
        }

        void Equal(string name, Tensor found)
        {
            Tensor expected = TensorBytes.ToTensor(golden.Read(name), null, CPU).reshape(-1);
            Assert.True(expected.equal(found.cpu().reshape(-1)).all().item<bool>(), name);
        }
    }
}

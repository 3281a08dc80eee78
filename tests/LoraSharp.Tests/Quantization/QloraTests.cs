using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using LoraSharp.Training;
using LoraSharp.Training.Optimizers;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

/// <summary>Whole models in 4 bits against bitsandbytes and PEFT.</summary>
public sealed class QloraTests
{
    public QloraTests() => NativeRuntime.EnsureLoaded();

    [Theory]
    [InlineData("bnb_nf4")]
    [InlineData("bnb_nf4_double")]
    public void LogitsAreThoseOfBitsandbytes(string name)
    {
        using var scope = NewDisposeScope();
        using var none = no_grad();
        using SafetensorsFile golden = SafetensorsFile.Open(Fixtures.Path($"nf4/{name}/golden.safetensors"));
        Tensor ids = Read(golden, "input_ids");
        Tensor expected = Read(golden, "logits_bf16_gpu");
        using ModelSource source = BitsAndBytesSource.Unwrap(ModelSource.OpenFolder(Fixtures.Path("nf4/" + name)));

        // bitsandbytes computed them in bfloat16 with scales rounded to bfloat16; ours in float32, kept in 4 bits or dequantised.
        Tensor quantized = Logits(source.Tensors, new Nf4LinearFactory(null, new DenseLinearFactory()));
        Tensor dense = Logits(source.Tensors, new DenseLinearFactory());
        double scale = expected.abs().max().item<float>();
        Assert.InRange((quantized - expected).abs().max().item<float>() / scale, 0, 0.02);
        Assert.InRange((quantized - dense).abs().max().item<float>() / scale, 0, 1e-6);

        // The float32 logits of the fixture belong to misread weights (CpuRepacking): with those ours are the same.
        Tensor misread = Logits(new MisreadSource((BitsAndBytesSource)source.Tensors), new DenseLinearFactory());
        Assert.InRange((misread - Read(golden, "logits_fp32")).abs().max().item<float>(), 0, 1e-4);

        Tensor Logits(ITensorSource tensors, ILinearFactory factory)
        {
            using var view = new ModelSource("m", source.Location, source.Config, new Borrowed(tensors));
            using CausalLanguageModel model = ModelLoader.Load(view, factory, ScalarType.Float32, TestDevice.Current);
            using var attention = new PaddedAttention();
            Tensor logits = model.Forward(ids.to(model.Device), arange(ids.shape[1], device: model.Device).unsqueeze(0), attention).cpu();
            (factory as IDisposable)?.Dispose();
            return logits;
        }
    }

    /// <summary>Twelve steps of QLoRA, quantised from bfloat16 while loading, computed in float32.</summary>
    [Fact]
    public void TrajectoryIsPeftsWithinItsTolerance()
    {
        using SafetensorsFile golden = SafetensorsFile.Open(Fixtures.Path("nf4/qlora/golden.safetensors"));
        using var outer = NewDisposeScope();
        Device device = TestDevice.Current;
        Tensor ids = Read(golden, "input_ids").to(device), labels = Read(golden, "labels").to(device), mask = Read(golden, "attention_mask").to(device);
        float[] losses = Read(golden, "loss").data<float>().ToArray();
        float[] norms = Read(golden, "grad_norm").data<float>().ToArray();
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("nf4/base_bf16"));
        using var adapters = new AdapterSet();
        using var quantized = new Nf4LinearFactory(new QuantizationOptions(), new DenseLinearFactory());
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, quantized), ScalarType.Float32, TestDevice.Current);
        adapters.Load(AdapterFolder.Open(Fixtures.Path("nf4/qlora/initial")), trainable: true);
        adapters.Select(AdapterSet.DefaultName);
        adapters.Training = true;
        var options = new TrainerOptions { LearningRate = 0.005, WeightDecay = 0.01, WarmupSteps = 3, MaxSteps = 12 };
        LearningRateSchedule schedule = options.CreateSchedule(12);
        NamedTensor[] trainable = [.. adapters.Trainable];
        Assert.Equal(28, trainable.Length);
        using var gradients = new GradientBuffer(trainable);
        using var optimizer = new AdamW(gradients, ParameterGroup.Create(trainable, options), options);
        for (int step = 0; step < 12; step++)
        {
            using var scope = NewDisposeScope();
            gradients.Clear();
            using var attention = new PaddedAttention(mask[step]);
            Tensor logits = model.Forward(ids[step], arange(16, device: device).unsqueeze(0), attention);
            Tensor loss = nn.functional.cross_entropy(logits.narrow(1, 0, 15).reshape(-1, 160), labels[step].narrow(1, 1, 15).reshape(-1), ignore_index: -100);
            loss.backward();
            Tensor norm = gradients.Norm();
            gradients.Clip(norm, 1);
            optimizer.Step(schedule.Factor(step));
            Assert.Equal(losses[step], loss.item<float>(), 2e-5f);
            Assert.Equal(norms[step], norm.item<float>(), 2e-4f);
        }

        using SafetensorsFile final = SafetensorsFile.Open(Fixtures.Path("nf4/qlora/final/adapter_model.safetensors"));
        foreach (NamedTensor tensor in trainable)
        {
            Tensor expected = Read(final, "base_model.model." + tensor.Name.Replace(".default.", ".", StringComparison.Ordinal));
            Assert.True(expected.allclose(tensor.Value.cpu(), 1e-3, 2e-4), $"{tensor.Name}: {(expected - tensor.Value.cpu()).abs().max().item<float>()}");
        }
    }

    private static Tensor Read(SafetensorsFile file, string name)
    {
        using Tensor mapped = TensorBytes.ToTensor(file.Read(name), null, CPU);
        return mapped.clone();
    }

    private sealed class Borrowed(ITensorSource inner) : ITensorSource
    {
        public string Location => inner.Location;

        public IReadOnlyDictionary<string, TensorInfo> Tensors => inner.Tensors;

        public ITensorSource? Underlying => inner;

        public TensorData Read(string name) => inner.Read(name);

        public void Dispose()
        {
        }
    }

    private sealed class MisreadSource(BitsAndBytesSource inner) : ITensorSource
    {
        public string Location => inner.Location;

        public IReadOnlyDictionary<string, TensorInfo> Tensors => inner.Tensors;

        public TensorData Read(string name)
        {
            if (inner.FindFourBit(name) is not { } stored)
            {
                return inner.Read(name);
            }

            using FourBitWeight weight = stored.Load(CPU);
            using Tensor dense = CpuRepacking.Misread(weight);
            byte[] bytes = new byte[dense.NumberOfElements * sizeof(float)];
            dense.bytes.CopyTo(bytes);
            return new TensorData(new TensorInfo(name, ElementType.F32, [.. dense.shape]), bytes);
        }

        public void Dispose()
        {
        }
    }
}

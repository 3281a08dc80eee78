using System.Globalization;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Hub;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>Puts a model together for inference: one of the few files that see every room.</summary>
public static class EngineSetup
{
    /// <summary>Loads the model with its adapters selected.</summary>
    /// <exception cref="LoraSharpException">The model or an adapter is missing or malformed, or the device is not there.</exception>
    public static LoadedModel Load(EngineOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        NativeRuntime.EnsureLoaded();
        Device device = FindDevice(options.Device);
        ScalarType dtype = options.DType == "bfloat16" ? ScalarType.BFloat16 : ScalarType.Float32;
        var owned = new Stack<IDisposable>();
        try
        {
            ModelSource source = Own(OpenModel(options.Model));
            // What a checkpoint holds in few bits, bitsandbytes' or GGUF's, stays as it is.
            QuantizationOptions? quantization = options.Quantization ?? QuantizationOptions.Named(options.Quantize, options.DoubleQuantization);
            var dense = new DenseLinearFactory(options.TrainBase);
            ILinearFactory factory = options.TrainBase ? dense
                : options.Quantize == "q8" ? Own(new GgufLinearFactory(Own(new Q8LinearFactory(dense))))
                : Own(new Nf4LinearFactory(quantization, Own(new GgufLinearFactory(dense))));
            AdapterSet adapters = Own(new AdapterSet { AcceptOtherBases = options.AcceptOtherBases, RoundFactors = options.RoundFactors });
            CausalLanguageModel model = Own(ModelLoader.Load(source, options.TrainBase ? factory : new LoraLinearFactory(adapters, factory), dtype, device, options.ModelType));
            var chosen = new List<(string, double)>();
            foreach ((string path, double weight) in options.Adapters)
            {
                using AdapterFolder folder = OpenAdapter(path, source);
                chosen.Add((adapters.Load(folder, $"adapter{chosen.Count}").Name, weight));
            }

            adapters.Select(chosen);
            return new LoadedModel(source, model, adapters, owned);
        }
        catch
        {
            while (owned.TryPop(out IDisposable? one))
            {
                one.Dispose();
            }

            throw;
        }

        T Own<T>(T value)
            where T : IDisposable
        {
            owned.Push(value);
            return value;
        }
    }

    /// <summary>Opens a model by the name a user gives it: a folder, a .gguf file, or a hub name in the local cache. A bitsandbytes checkpoint is seen dequantised.</summary>
    /// <exception cref="LoraSharpException">There is none, or it is malformed.</exception>
    public static ModelSource OpenModel(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        string path = HubCache.FromEnvironment().Locate(name);
        return BitsAndBytesSource.Unwrap(path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) ? GgufCheckpoint.OpenModel(path) : ModelSource.OpenFolder(path, name));
    }

    /// <summary>Opens an adapter by the name a user gives it: a PEFT folder, a .gguf adapter, or a hub name in the local cache.</summary>
    /// <param name="name">As given.</param>
    /// <param name="model">The base; a .gguf adapter's tensors are named and ordered by its kind.</param>
    public static AdapterFolder OpenAdapter(string name, ModelSource? model)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        string path = HubCache.FromEnvironment().Locate(name);
        return path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) ? GgufAdapter.Open(path, model?.Config) : AdapterFolder.Open(path);
    }

    /// <summary>The device of this name.</summary>
    /// <exception cref="LoraSharpException">It names a GPU that is not there.</exception>
    public static Device FindDevice(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        // Before the first use of a tensor type, the CPU's own name included.
        bool hasCuda = NativeRuntime.EnsureLoaded().HasCudaLibraries;
        int count = name == "cpu" || !hasCuda ? 0 : cuda.device_count();
        if (name == "cpu" || (name == "auto" && count == 0))
        {
            return CPU;
        }

        int index = 0;
        if (name is not ("auto" or "cuda") && !(name.StartsWith("cuda:", StringComparison.Ordinal) && int.TryParse(name.AsSpan(5), NumberStyles.None, CultureInfo.InvariantCulture, out index)))
        {
            throw new LoraSharpException($"device '{name}': expected cpu, cuda, cuda:N or auto.");
        }

        return index < count
            ? new Device(DeviceType.CUDA, index)
            : throw new LoraSharpException(
                $"device '{name}': there is no such GPU ({count} found). Set {NativeRuntime.TorchFolderVariable} to the torch/lib folder of a PyTorch with CUDA, or use --device cpu.");
    }
}

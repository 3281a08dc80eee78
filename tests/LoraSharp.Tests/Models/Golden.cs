using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

/// <summary>A tiny checkpoint and what transformers computes with it.</summary>
internal sealed class Golden : IDisposable
{
    private readonly ModelSource _source;
    private readonly SafetensorsFile _file;

    public Golden(string name, ILinearFactory? factory = null, ScalarType dtype = ScalarType.Float32)
    {
        string folder = Fixtures.Path("models/" + name);
        NativeRuntime.EnsureLoaded();

        // Matrices of a few kilobytes: several threads only wait for each other, the more the busier the machine is.
        set_num_threads(1);
        _source = ModelSource.OpenFolder(folder);
        _file = SafetensorsFile.Open(Path.Combine(folder, "golden.safetensors"));
        Model = ModelLoader.Load(_source, factory ?? new DenseLinearFactory(), dtype, TestDevice.Current);
    }

    public CausalLanguageModel Model { get; }

    /// <summary>All fixture names, from the folder.</summary>
    public static IEnumerable<string> Names() =>
        Directory.EnumerateDirectories(Fixtures.Path("models")).Select(d => Path.GetFileName(d)!).Order(StringComparer.Ordinal);

    public static Tensor Arange(Tensor ids) => arange(ids.shape[1], ScalarType.Int64, ids.device).unsqueeze(0);

    /// <summary>Largest difference divided by the largest magnitude of the reference.</summary>
    public static double Difference(Tensor expected, Tensor actual)
    {
        using var scope = NewDisposeScope();
        return ((expected - actual).abs().max() / expected.abs().max()).to(ScalarType.Float64).item<double>();
    }

    public Tensor Read(string tensor) => TensorBytes.ToTensor(_file.Read(tensor), null, TestDevice.Current);

    public void Dispose()
    {
        Model.Dispose();
        _source.Dispose();
        _file.Dispose();
    }
}

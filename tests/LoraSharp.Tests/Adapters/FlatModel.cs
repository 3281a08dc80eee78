using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

/// <summary>The layers of a checkpoint without a model around them: all that adapters see of one.</summary>
internal sealed class FlatModel : IDisposable
{
    private readonly ModelSource _source;
    private readonly List<IDisposable> _owned = [];

    public FlatModel(string fixture)
    {
        _source = ModelSource.OpenFolder(Fixtures.Path(fixture));
        using var reader = new WeightReader(_source.Tensors, ScalarType.Float32, CPU);
        var factory = new LoraLinearFactory(Adapters, new DenseLinearFactory());
        bool isGpt2 = (string)_source.Config["model_type"]! == "gpt2";
        foreach ((string name, TensorInfo info) in _source.Tensors.Tensors.OrderBy(t => t.Key, StringComparer.Ordinal))
        {
            string module = name[..name.LastIndexOf('.')];
            bool hasBias = reader.Has(module + ".bias");
            if (module.EndsWith("embed_tokens", StringComparison.Ordinal) || module.EndsWith("wte", StringComparison.Ordinal) || module.EndsWith("wpe", StringComparison.Ordinal))
            {
                _owned.Add(factory.CreateEmbedding(new EmbeddingSpec(module, info.Shape[0], info.Shape[1]), reader));
            }
            else if (name.EndsWith(".weight", StringComparison.Ordinal) && info.Shape.Count == 2)
            {
                bool head = module == "lm_head";
                (long k, long f) = isGpt2 ? (info.Shape[0], info.Shape[1]) : (info.Shape[1], info.Shape[0]);
                _owned.Add(factory.CreateLinear(new LinearSpec(module, k, f, hasBias) { IsOutputHead = head, IsConv1D = isGpt2 }, reader));
            }
            else if (info.Shape.Count == 1 && !_source.Tensors.Tensors.TryGetValue(module + ".weight", out TensorInfo? weight) | weight?.Shape.Count == 1)
            {
                _owned.Add(factory.CreateParameter(name, info.Shape, reader));
            }
        }
    }

    public AdapterSet Adapters { get; } = new();

    public static Tensor Read(string fixture, string tensor)
    {
        using SafetensorsFile file = SafetensorsFile.Open(Fixtures.Path(fixture));
        using Tensor mapped = TensorBytes.ToTensor(file.Read(tensor), null, CPU);
        return mapped.clone();
    }

    public void Dispose()
    {
        Adapters.Dispose();
        _owned.ForEach(o => o.Dispose());
        _source.Dispose();
    }
}

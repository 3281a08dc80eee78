using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using LoraSharp.Tests.Adapters;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

/// <summary>A checkpoint of random weights in a folder of its own, the model made of it, and its weights in float64 for a plain computation.</summary>
internal sealed class TinyCheckpoint : IDisposable
{
    private readonly TemporaryFolder _folder = new();
    private readonly Dictionary<string, Tensor> _wide;
    private readonly ModelSource _source;

    /// <param name="config"><c>config.json</c>.</param>
    /// <param name="shapes">Its tensors.</param>
    /// <param name="replaced">Other values for some of them.</param>
    public TinyCheckpoint(string config, IEnumerable<(string Name, long[] Shape)> shapes, IReadOnlyDictionary<string, Tensor>? replaced = null)
    {
        NativeRuntime.EnsureLoaded();
        set_num_threads(1);
        using var random = new Generator(11);
        Dictionary<string, Tensor> weights = shapes.ToDictionary(s => s.Name, s =>
        {
            // Drawn for replaced ones too: the others stay the same.
            Tensor drawn = randn(s.Shape, generator: random) * 0.3;
            return replaced?.GetValueOrDefault(s.Name) ?? drawn;
        });
        SafetensorsWriter.Write(
            Path.Combine(_folder.Path, "model.safetensors"),
            weights.Select(w => new TensorToWrite(new TensorInfo(w.Key, w.Value.dtype.ToElementType(), w.Value.shape), stream => TensorBytes.CopyTo(w.Value, stream))));
        File.WriteAllText(Path.Combine(_folder.Path, "config.json"), JsonNode.Parse(config)!.ToJsonString());
        _source = ModelSource.OpenFolder(_folder.Path);
        Model = ModelLoader.Load(_source, new DenseLinearFactory(), ScalarType.Float32, CPU);
        _wide = weights.ToDictionary(w => w.Key, w => w.Value.to(ScalarType.Float64));
        Ids = randint(0, Model.Config.VocabularySize, [2, 9], ScalarType.Int64, generator: random);
    }

    public CausalLanguageModel Model { get; }

    /// <summary>[2, 9].</summary>
    public Tensor Ids { get; }

    public Tensor this[string name] => _wide[name];

    public Tensor Logits()
    {
        using var frozen = no_grad();
        using var attention = new PaddedAttention();
        return Model.Forward(Ids, Golden.Arange(Ids), attention);
    }

    /// <summary>The same token by token with a cache, after a prompt of 5.</summary>
    public Tensor CachedLogits()
    {
        using var frozen = no_grad();
        using var cache = new KeyValueCache(Model.LayerCount, capacity: 4);
        var parts = new List<Tensor>();
        for (long at = 0; at < Ids.shape[1];)
        {
            long count = at == 0 ? 5 : 1;
            parts.Add(Model.Forward(Ids.narrow(1, at, count), arange(at, at + count, ScalarType.Int64).unsqueeze(0), cache));
            at += count;
        }

        return cat([.. parts], 1);
    }

    public Tensor Linear(Tensor x, string name) =>
        _wide.TryGetValue(name + ".bias", out Tensor? bias) ? x.matmul(_wide[name + ".weight"].t()) + bias : x.matmul(_wide[name + ".weight"].t());

    public Tensor LayerNorm(Tensor x, string name, double epsilon = 1e-5)
    {
        Tensor centred = x - x.mean([-1], keepdim: true);
        Tensor scaled = centred / (centred.square().mean([-1], keepdim: true) + epsilon).sqrt() * _wide[name + ".weight"];
        return _wide.TryGetValue(name + ".bias", out Tensor? bias) ? scaled + bias : scaled;
    }

    /// <summary>softmax((q·kᵀ + bias)·scale)·v under the triangle; q [b, s, h, e], k and v [b, s, hk, e] → [b, s, h·e].</summary>
    public static Tensor Attention(Tensor q, Tensor k, Tensor v, double scale, Tensor? bias = null)
    {
        long h = q.shape[2], hk = k.shape[2], s = q.shape[1];
        Tensor Heads(Tensor x) => x.repeat_interleave(h / x.shape[2], 2).transpose(1, 2);
        Tensor scores = q.transpose(1, 2).matmul(Heads(k).transpose(2, 3));
        scores = (bias is null ? scores : scores + bias) * scale;
        Tensor later = ones(s, s, ScalarType.Bool).triu(1);
        return scores.masked_fill(later, double.NegativeInfinity).softmax(-1).matmul(Heads(v)).transpose(1, 2).flatten(2);
    }

    /// <summary>Rotates the first <paramref name="rotated"/> values of each head, halves against each other; x [b, s, h, e].</summary>
    public static Tensor Rotate(Tensor x, int rotated, double theta = 10000)
    {
        int half = rotated / 2;
        Tensor angles = arange(x.shape[1], ScalarType.Float64).unsqueeze(1) * pow(theta, -arange(half, ScalarType.Float64) / half);
        Tensor cos = angles.cos().unsqueeze(1), sin = angles.sin().unsqueeze(1);
        Tensor a = x.narrow(3, 0, half), b = x.narrow(3, half, half);
        return cat([(a * cos) - (b * sin), (b * cos) + (a * sin), x.narrow(3, rotated, x.shape[3] - rotated)], 3);
    }

    public void Dispose()
    {
        Model.Dispose();
        _source.Dispose();
        _folder.Dispose();
    }
}

using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>The norm of q or of k: over all heads together, over each head by one weight, or by one weight a head.</summary>
internal sealed class HeadNorm : IDisposable
{
    private readonly NormLayer[] _norms;

    /// <param name="config">Of the model.</param>
    /// <param name="path">Of the norm in the checkpoint.</param>
    /// <param name="heads">Heads of q or of k.</param>
    /// <param name="factory">Makes the weights.</param>
    /// <param name="weights">Gives their values.</param>
    public HeadNorm(DecoderConfig config, string path, int heads, ILinearFactory factory, WeightReader weights)
    {
        int size = config.Attention.HeadSize;
        _norms = config.Attention.QueryKeyNorm switch
        {
            QueryKeyNorm.Full => [new(config.Norm, path, (long)heads * size, factory, weights)],
            QueryKeyNorm.EachHead => [.. Enumerable.Range(0, heads).Select(i => new NormLayer(config.Norm with { Kind = NormKind.LayerNoBias }, $"{path}.norms.{i}", size, factory, weights))],
            _ => [new(config.Norm, path, size, factory, weights)],
        };
    }

    /// <summary>Weights, and biases where the family's norms have them.</summary>
    public IEnumerable<NamedTensor> Parameters => _norms.SelectMany(n => n.Parameters);

    /// <summary>x [b, s, h·e] (all heads together) or [b, s, h, e] → the same shape.</summary>
    public Tensor Forward(Tensor x)
    {
        if (_norms.Length == 1)
        {
            return _norms[0].Forward(x);
        }

        using var scope = NewDisposeScope();
        return stack([.. _norms.Select((n, i) => n.Forward(x.select(2, i)))], 2).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (NormLayer norm in _norms)
        {
            norm.Dispose();
        }
    }
}

using LoraSharp.Adapters;
using static TorchSharp.torch;

namespace LoraSharp.Training.Loss;

/// <summary>
/// What is random in a model while it is trained (dropout, noise on embeddings). It has no state that goes on from pass
/// to pass: equal numbers give equal noise, so a resumed run and a recomputed block draw the same.
/// </summary>
public interface ITrainingNoise
{
    /// <summary>Switches it on for one pass, until what is returned is disposed.</summary>
    /// <param name="pass">Number of the pass, different for every one of a run.</param>
    IDisposable Begin(long pass);

    /// <summary>The embedded tokens [b, s, d] with this pass's noise: a new tensor, or the same one where there is none.</summary>
    Tensor Embedded(Tensor embedded) => embedded;
}

/// <summary>Dropout of adapters.</summary>
/// <param name="adapters">The model's.</param>
/// <param name="seed">Of the run.</param>
public sealed class AdapterNoise(AdapterSet adapters, long seed) : ITrainingNoise
{
    /// <inheritdoc/>
    public IDisposable Begin(long pass)
    {
        adapters.Dropout.Seed = seed;
        adapters.Dropout.MicroBatch = pass;
        adapters.Training = true;
        return new End(adapters);
    }

    private sealed class End(AdapterSet adapters) : IDisposable
    {
        public void Dispose() => adapters.Training = false;
    }
}

/// <summary>Several at once.</summary>
/// <param name="parts">Each is begun and ended with the pass.</param>
public sealed class CombinedNoise(IReadOnlyList<ITrainingNoise> parts) : ITrainingNoise
{
    /// <inheritdoc/>
    public IDisposable Begin(long pass) => new End([.. parts.Select(p => p.Begin(pass))]);

    /// <inheritdoc/>
    public Tensor Embedded(Tensor embedded)
    {
        using var scope = NewDisposeScope();
        Tensor result = parts.Aggregate(embedded, (x, part) => part.Embedded(x));
        return ReferenceEquals(result, embedded) ? embedded : result.MoveToOuterDisposeScope();
    }

    private sealed class End(IReadOnlyList<IDisposable> parts) : IDisposable
    {
        public void Dispose()
        {
            foreach (IDisposable part in parts)
            {
                part.Dispose();
            }
        }
    }
}

using LoraSharp.Formats;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>A parameter that the model holds directly (a norm's weight) and an adapter may replace.</summary>
/// <param name="live">The model's own tensor, in memory that may be written to.</param>
internal sealed class ModelParameter(Tensor live) : IDisposable
{
    private Tensor? _base;

    /// <summary>The model's tensor, whatever is in it at the moment.</summary>
    public Tensor Live => live;

    /// <summary>The base's values, kept from before the first replacement.</summary>
    public Tensor Base
    {
        get
        {
            using var _ = no_grad();
            return _base ??= live.detach().clone().DetachFromDisposeScope();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _base?.Dispose();
}

/// <summary>
/// Puts the selected adapter's saved parameters (norms of <c>modules_to_save</c>) into the model and takes the former
/// one's out. They are the model's own tensors, so gradients flow without the model knowing of adapters; the price is
/// that they can't differ by row or be weighted.
/// </summary>
internal static class ParameterSwap
{
    public static void Apply(IReadOnlyDictionary<string, ModelParameter> parameters, AdapterSelection before, AdapterSelection after)
    {
        LoraAdapter[] next = [.. after.Adapters.Where(a => a.Parameters.Count > 0)];
        LoraAdapter[] former = [.. before.Adapters.Where(a => a.Parameters.Count > 0)];
        if (next.Length == 0 && former.Length == 0)
        {
            return;
        }

        if (next.Length > 0 && (after.Segments is not null || after.All.Count > 1 || after.All[0].Weight != 1))
        {
            throw new LoraSharpException(
                $"Adapter '{next[0].Name}' holds whole parameters of the model ({string.Join(", ", next[0].Parameters.Keys.Take(3))}), which can't be mixed by row, weighted or added to another adapter's. Use it alone with weight 1, or merge it into the model.");
        }

        using var _ = no_grad();
        foreach (LoraAdapter adapter in former)
        {
            foreach ((string name, Tensor live) in adapter.Live)
            {
                adapter.Parameters[name].copy_(live);
                live.requires_grad = false;
                live.copy_(parameters[name].Base);
            }

            adapter.Live.Clear();
        }

        foreach (LoraAdapter adapter in next)
        {
            foreach ((string name, Tensor value) in adapter.Parameters)
            {
                ModelParameter parameter = parameters[name];
                Tensor kept = parameter.Base;
                parameter.Live.copy_(value);
                parameter.Live.requires_grad = adapter.IsTrainable;
                adapter.Live[name] = parameter.Live;
                GC.KeepAlive(kept);
            }
        }
    }
}

using LoraSharp.Formats;
using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// A stack of experts as <c>target_parameters</c> names it, whether the checkpoint holds it as one tensor or as linear
/// layers of single experts.
/// </summary>
/// <param name="Path">Full name of the parameter in transformers 5.</param>
/// <param name="Count">E.</param>
/// <param name="InFeatures">k.</param>
/// <param name="OutFeatures">f.</param>
internal sealed record ExpertTarget(string Path, int Count, long InFeatures, long OutFeatures)
{
    /// <summary>The layers it consists of; empty where it is one tensor.</summary>
    public List<LoraLinear> Layers { get; } = [];

    /// <summary>
    /// Gives the layers of single experts their part of the factors. The parts are views: what trains is the stack.
    /// </summary>
    /// <exception cref="LoraSharpException">A layer is a target of its own as well.</exception>
    public void Spread(LoraAdapter adapter, AdapterModule stack)
    {
        // Views follow their base's gradient only when they are made while gradients are recorded.
        using IDisposable mode = adapter.IsTrainable ? enable_grad() : no_grad();
        using var scope = NewDisposeScope();
        foreach (LoraLinear layer in Layers)
        {
            StackSlice slice = layer.Spec.Stack!;
            if (adapter.Modules.ContainsKey(layer.Spec.Name))
            {
                throw new LoraSharpException($"{layer.Spec.Name} is adapted as a module and as part of {Path}. Leave it out of target_modules or of target_parameters.");
            }

            (Tensor a, Tensor b) = stack.OfExpert(slice.Expert);
            adapter.Add(new AdapterModule(layer.Spec.Name, false)
            {
                IsSlice = true,
                A = a.DetachFromDisposeScope(),
                B = b.narrow(0, slice.FirstRow, layer.Spec.OutFeatures).DetachFromDisposeScope(),
                Scaling = stack.Scaling,
            });
        }
    }

    /// <summary>Spreads every stack of an adapter and notes whether it touches experts.</summary>
    public static void SpreadAll(AdapterSet set, LoraAdapter adapter)
    {
        foreach (AdapterModule stack in adapter.Modules.Values.Where(m => m.Experts > 0).ToArray())
        {
            set.Experts[stack.Name].Spread(adapter, stack);
        }

        adapter.TouchesExperts = adapter.Modules.Keys.Any(p => set.Experts.ContainsKey(p) || (set.Linears.TryGetValue(p, out LoraLinear? layer) && layer.Spec.Stack is not null));
    }

    /// <summary>Shapes of A [E·r, k] and B [f, E·r].</summary>
    public (long[] A, long[] B) Shapes(int rank) => ([Count * rank, InFeatures], [OutFeatures, Count * rank]);
}

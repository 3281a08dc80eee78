using LoraSharp.Adapters.Initialization;
using LoraSharp.Formats;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>Runs training data through a base until the directions of its layers' inputs stand still.</summary>
internal static class EvaPass
{
    /// <summary>Fills the directions.</summary>
    /// <param name="loaded">The base.</param>
    /// <param name="directions">What is to be filled.</param>
    /// <param name="source">The run's own batches from the start, over again where they end.</param>
    /// <param name="supervisedOnly">Look at supervised tokens only.</param>
    /// <param name="cancellation">Ends the pass with an exception.</param>
    /// <exception cref="LoraSharpException">There is not a single token to look at.</exception>
    public static void Run(LoadedModel loaded, InputDirections directions, Func<IBatchSource> source, bool supervisedOnly, CancellationToken cancellation)
    {
        using var grad = no_grad();
        while (!directions.IsComplete)
        {
            int before = directions.Batches;
            using IBatchSource epoch = source();
            while (!directions.IsComplete && epoch.NextStep() is { Count: > 0 } step)
            {
                foreach (MicroBatch batch in step.TakeWhile(_ => !directions.IsComplete))
                {
                    cancellation.ThrowIfCancellationRequested();
                    Look(loaded, directions, batch, supervisedOnly);
                }
            }

            if (directions.Batches == before)
            {
                throw new LoraSharpException("init eva: the training data hold no supervised token to look at.");
            }
        }
    }

    private static void Look(LoadedModel loaded, InputDirections directions, MicroBatch batch, bool supervisedOnly)
    {
        long[] places = [.. Enumerable.Range(0, batch.Labels.Length)
            .Where(i => batch.Sequences[i] > 0 && (!supervisedOnly || batch.Labels[i] != TrainingExample.Ignored)).Select(i => (long)i)];
        if (places.Length == 0)
        {
            return;
        }

        using var scope = NewDisposeScope();
        using IDisposable watching = directions.Watch(tensor(places, device: loaded.Model.Device), batch.Labels.Length);
        using var forward = new ForwardPass(loaded.Model, batch, recompute: false);
    }
}

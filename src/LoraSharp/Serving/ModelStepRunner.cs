using LoraSharp.Adapters;
using LoraSharp.Models;
using LoraSharp.Serving.Cache;
using LoraSharp.Serving.Scheduling;
using static TorchSharp.torch;

namespace LoraSharp.Serving;

/// <summary>The plain runner, for every family and device: the chunks' tokens one after the other are a batch of one row.</summary>
/// <param name="model">The base with adapters attachable; stays the caller's.</param>
/// <param name="adapters">The model's.</param>
/// <param name="cache">Where keys and values go; owned.</param>
internal sealed class ModelStepRunner(CausalLanguageModel model, AdapterSet adapters, PagedCache cache) : IStepRunner
{
    private AdapterSelection _body = AdapterSelection.None;
    private AdapterSelection _head = AdapterSelection.None;

    /// <inheritdoc/>
    public Tensor? Run(IReadOnlyList<StepChunk> chunks)
    {
        using var scope = NewDisposeScope();
        int count = chunks.Sum(c => c.Count);
        long[] ids = new long[count], positions = new long[count];
        var wanted = new List<long>();
        int at = 0;
        foreach (StepChunk chunk in chunks)
        {
            for (int i = 0; i < chunk.Count; i++)
            {
                ids[at + i] = chunk.Sequence.Tokens[chunk.Start + i];
                positions[at + i] = chunk.Start + i;
            }

            at += chunk.Count;
            wanted.AddRange(Enumerable.Range(at - chunk.LogitRows, chunk.LogitRows).Select(i => (long)i));
        }

        using var attention = new PagedAttention(cache, chunks, model.Device);
        Tensor hidden;
        using (adapters.Use(_body = Selection(_body, chunks, c => c.Count)))
        {
            hidden = model.Hidden(Row(ids), Row(positions), attention);
        }

        if (wanted.Count == 0)
        {
            return null;
        }

        // The head may be adapted too: its rows are other ones.
        using IDisposable head = adapters.Use(_head = Selection(_head, chunks, c => c.LogitRows));
        Tensor rows = wanted.Count == count ? hidden : hidden.index_select(1, tensor(wanted.ToArray(), device: model.Device));
        return model.Logits(rows).squeeze(0).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    public void Dispose() => cache.Dispose();

    private Tensor Row(long[] values) => tensor(values, [1, values.Length], device: model.Device);

    // The one before, as long as it says the same: layers keep what they worked out for it.
    private static AdapterSelection Selection(AdapterSelection before, IReadOnlyList<StepChunk> chunks, Func<StepChunk, int> rows)
    {
        AdapterSelection now = AdapterSelection.ForRows(chunks.Select(c => new RowSegment(rows(c), c.Sequence.Adapter?.Adapter)));
        return now.Says(before) ? before : now;
    }
}

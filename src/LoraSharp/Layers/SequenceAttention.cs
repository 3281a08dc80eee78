using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>
/// Causal attention within packed rows: a token sees only its own sequence. On a CPU each sequence is attended to by
/// itself (<see cref="PackedRuns"/>), so that a row of n sequences of length l costs n·l² instead of (n·l)²; elsewhere,
/// where a launch costs more than a masked square, the whole row is computed under a mask.
/// </summary>
public sealed class SequenceAttention : MaskedAttention
{
    private readonly Tensor _sequences;
    private readonly bool _isCausal;
    private readonly PackedRuns? _runs;
    private readonly PaddedAttention? _within;

    /// <summary>Creates the context for one forward pass.</summary>
    /// <param name="sequences">[b, s] integers: the number of a token's sequence within its row, from 1; 0 for padding.</param>
    /// <param name="masked">Compute whole rows under a mask on a CPU too: the reference.</param>
    public SequenceAttention(Tensor sequences, bool masked = false)
    {
        ArgumentNullException.ThrowIfNull(sequences);
        using var scope = NewDisposeScope();
        _sequences = sequences.to(ScalarType.Int64).clone().DetachFromDisposeScope();

        // One sequence a row, padded at the end: nothing that comes earlier is of another sequence.
        long s = sequences.shape[1];
        Tensor first = _sequences.narrow(1, 0, 1);
        _isCausal = !_sequences.ne(first).logical_and(_sequences.ne(0)).any().item<bool>() &&
            (s == 1 || !_sequences.narrow(1, 0, s - 1).eq(0).logical_and(_sequences.narrow(1, 1, s - 1).ne(0)).any().item<bool>());
        _runs = _isCausal || masked || sequences.device_type != TorchSharp.DeviceType.CPU ? null : PackedRuns.Of(_sequences);
        _within = _runs is null ? null : new PaddedAttention();
    }

    /// <inheritdoc/>
    public override Tensor Attend(int layer, Tensor query, Tensor key, Tensor value, AttentionSpec spec)
    {
        ArgumentNullException.ThrowIfNull(query);
        ArgumentNullException.ThrowIfNull(key);
        ArgumentNullException.ThrowIfNull(value);
        ArgumentNullException.ThrowIfNull(spec);
        if (_runs is null)
        {
            return base.Attend(layer, query, key, value, spec);
        }

        using var scope = NewDisposeScope();
        if (AttentionMath.CanFuse(spec, query, value))
        {
            // Once for all sequences instead of once for each.
            (key, value) = (AttentionMath.Repeat(key, query.shape[1]), AttentionMath.Repeat(value, query.shape[1]));
        }

        Tensor[] queries = _runs.Split(query), keys = _runs.Split(key), values = _runs.Split(value);
        return PackedRuns.Join([.. queries.Select((q, i) => _within!.Attend(layer, q, keys[i], values[i], spec))], query.shape[0]).MoveToOuterDisposeScope();
    }

    /// <inheritdoc/>
    protected override bool IsPlainlyCausal => _isCausal;

    /// <inheritdoc/>
    protected override Tensor? Visible(long length, Device device)
    {
        if (_isCausal)
        {
            return null;
        }

        Tensor sequences = _sequences.to(device);
        return sequences.unsqueeze(2).eq(sequences.unsqueeze(1)).unsqueeze(1);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        _within?.Dispose();
        _sequences.Dispose();
    }
}

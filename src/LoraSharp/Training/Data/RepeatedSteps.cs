using System.Text.Json.Nodes;

namespace LoraSharp.Training.Data;

/// <summary>Gives each step of another source several times over, for objectives that learn from a sample more than once.</summary>
/// <param name="inner">The source; disposed with this.</param>
/// <param name="times">How often each step comes.</param>
public sealed class RepeatedSteps(IBatchSource inner, int times) : IBatchSource
{
    private IReadOnlyList<MicroBatch> _step = [];
    private JsonObject? _before;
    private int _left;

    /// <inheritdoc/>
    public long? StepsPerEpoch => inner.StepsPerEpoch * times;

    /// <inheritdoc/>
    public long? TotalSteps => inner.TotalSteps * times;

    /// <inheritdoc/>
    public double Epoch => inner.Epoch;

    /// <inheritdoc/>
    public IReadOnlyList<MicroBatch> NextStep()
    {
        if (_left == 0)
        {
            _before = inner.SaveState();
            _step = inner.NextStep();
            _left = times;
        }

        _left--;
        return _step;
    }

    /// <inheritdoc/>
    public JsonObject SaveState() => new()
    {
        // In the middle of a step, the source's state is that from which the step comes again.
        ["source"] = (_left == 0 ? inner.SaveState() : _before)!.DeepClone(),
        ["left"] = _left,
    };

    /// <inheritdoc/>
    public void RestoreState(JsonObject state)
    {
        ArgumentNullException.ThrowIfNull(state);
        JsonObject source = state["source"]!.AsObject();
        inner.RestoreState(source);
        _left = (int)state["left"]!;
        if (_left > 0)
        {
            _before = source;
            _step = inner.NextStep();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => inner.Dispose();
}

using LoraSharp.Formats;
using LoraSharp.Training.Optimizers;

namespace LoraSharp.Training;

/// <summary>
/// Watches the first step of a run that has anything to learn from: a matrix that no gradient reaches stays as it is
/// for good, and nothing else would say so.
/// </summary>
/// <param name="gradients">Of the trained tensors.</param>
/// <param name="mustLearn">Says of a name whether it must get a gradient; null watches nothing.</param>
internal sealed class GradientProof(GradientBuffer gradients, Func<string, bool>? mustLearn)
{
    private const int Named = 10;
    private bool _isPending = mustLearn is not null;

    /// <summary>Clears the gradients for a step.</summary>
    public void Begin()
    {
        if (_isPending)
        {
            gradients.Mark();
        }
        else
        {
            gradients.Clear();
        }
    }

    /// <summary>Call when a step's gradients are whole, before anything else is done with them.</summary>
    /// <param name="step">Number of the step, for the message.</param>
    /// <exception cref="LoraSharpException">A matrix got none.</exception>
    public void Require(long step)
    {
        if (!_isPending)
        {
            return;
        }

        _isPending = false;
        string[] missed = [.. gradients.Untouched().Where(mustLearn!)];
        if (missed.Length > 0)
        {
            throw new LoraSharpException(
                $"Step {step}: {missed.Length} of {gradients.Parameters.Count} trained tensors got no gradient, so training would leave them as they are:\n  {string.Join("\n  ", missed.Take(Named))}{(missed.Length > Named ? $"\n  ... and {missed.Length - Named} more" : string.Empty)}\n" +
                "What the model computes does not depend on them. Take their modules out of the adapter's targets.");
        }
    }
}

namespace LoraSharp.Serving;

/// <summary>Work on the engine's model that is done in slices between its steps, e.g. a fine-tune on the shared base.</summary>
public interface IBackgroundWork : IDisposable
{
    /// <summary>Does the next piece, on the engine's thread, and leaves the model as it found it.</summary>
    /// <returns>False when there is nothing left to do.</returns>
    /// <exception cref="Exception">It failed; it is disposed and the engine goes on.</exception>
    bool RunSlice();
}

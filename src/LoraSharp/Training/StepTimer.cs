namespace LoraSharp.Training;

/// <summary>Tokens a second of each step, and the time left at the speed of the last ones.</summary>
internal sealed class StepTimer(TimeProvider clock)
{
    // Weight of the newest step in the moving average of seconds a step.
    private const double Newest = 0.1;
    private double _seconds = double.NaN;
    private long _started;

    public void Start() => _started = clock.GetTimestamp();

    public (double TokensPerSecond, TimeSpan Remaining) Stop(long tokens, long stepsLeft)
    {
        double seconds = clock.GetElapsedTime(_started).TotalSeconds;
        _seconds = double.IsNaN(_seconds) ? seconds : _seconds + (Newest * (seconds - _seconds));
        return (seconds > 0 ? tokens / seconds : 0, TimeSpan.FromSeconds(Math.Min(_seconds * stepsLeft, TimeSpan.MaxValue.TotalSeconds / 2)));
    }
}

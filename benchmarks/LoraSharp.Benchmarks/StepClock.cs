using System.Diagnostics;
using LoraSharp.Training;
using static TorchSharp.torch;

namespace LoraSharp.Benchmarks;

/// <summary>Notes how long each optimizer step took.</summary>
internal sealed class StepClock : ITrainingObserver
{
    private long _last = Stopwatch.GetTimestamp();
    private TimeSpan _processor;

    public List<double> Seconds { get; } = [];

    public List<double> ProcessorSeconds { get; } = [];

    public List<long> Tensors { get; } = [];

    public void On(TrainingEvent happened)
    {
        if (happened is TrainingStarted)
        {
            _last = Stopwatch.GetTimestamp();
            _processor = Process.GetCurrentProcess().TotalProcessorTime;
        }
        else if (happened is StepCompleted)
        {
            Seconds.Add(Stopwatch.GetElapsedTime(_last).TotalSeconds);
            TimeSpan processor = Process.GetCurrentProcess().TotalProcessorTime;
            ProcessorSeconds.Add((processor - _processor).TotalSeconds);
            _processor = processor;
            Tensors.Add(Tensor.TotalCount);
            _last = Stopwatch.GetTimestamp();
        }
    }
}

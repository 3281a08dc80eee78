using System.Threading.Channels;
using LoraSharp.Training;

namespace LoraSharp;

/// <summary>Passes events on to another thread.</summary>
internal sealed class EventWriter(ChannelWriter<TrainingEvent> events) : ITrainingObserver
{
    public void On(TrainingEvent happened) => events.TryWrite(happened);
}

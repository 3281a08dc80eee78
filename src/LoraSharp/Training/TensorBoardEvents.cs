using System.Buffers.Binary;
using System.Globalization;
using System.Numerics;
using Google.Protobuf;
using Tensorboard;

namespace LoraSharp.Training;

/// <summary>
/// Event files that TensorBoard shows: <c>train/loss</c>, <c>train/learning_rate</c>, …, <c>eval/loss</c>, …, a scalar a step. Each
/// sitting of a run writes a file of its own that begins with a session mark, which makes TensorBoard forget the steps that an
/// earlier sitting made after the checkpoint this one goes on from.
/// </summary>
/// <remarks>
/// A file is a sequence of TFRecords: length (8 bytes), its checksum, a protobuf <c>Event</c>, its checksum; the checksums are
/// CRC-32C, rotated and offset. The messages are TorchSharp's.
/// </remarks>
/// <param name="folder">Where the files go; made when the run starts.</param>
/// <param name="clock">Stamps the events.</param>
public sealed class TensorBoardEvents(string folder, TimeProvider? clock = null) : ITrainingObserver, IDisposable
{
    private readonly TimeProvider _clock = clock ?? TimeProvider.System;
    private FileStream? _stream;

    /// <inheritdoc/>
    public void On(TrainingEvent happened)
    {
        switch (happened)
        {
            case TrainingStarted started:
                Open();
                Append(new Event { FileVersion = "brain.Event:2" });
                Append(new Event { Step = started.Step + 1, SessionLog = new SessionLog { Status = SessionLog.Types.SessionStatus.Start } });
                break;
            case StepCompleted step:
                Append(step.Step, "train/", [
                    ("loss", step.Loss), ("grad_norm", step.GradNorm), ("learning_rate", step.LearningRate), ("tokens_per_second", step.TokensPerSecond), ("epoch", step.Epoch),
                    .. step.Metrics.Select(m => (m.Key, m.Value))]);
                break;
            case Evaluated evaluated:
                (string, double)[] perplexity = evaluated.Perplexity is { } p ? [("perplexity", p)] : [];
                Append(evaluated.Step, "eval/", [("loss", evaluated.Loss), .. perplexity, .. evaluated.Metrics.Select(m => (m.Key, m.Value))]);
                break;
        }
    }

    /// <summary>Closes the file.</summary>
    public void Dispose() => _stream?.Dispose();

    /// <summary>The checksum of TFRecords: CRC-32C, rotated right by 15 bits, plus a constant, so that a checksum of checksums is no weak one.</summary>
    internal static uint MaskedCrc(ReadOnlySpan<byte> data)
    {
        uint crc = uint.MaxValue;
        foreach (byte b in data)
        {
            crc = BitOperations.Crc32C(crc, b);
        }

        return BitOperations.RotateRight(~crc, 15) + 0xA282EAD8;
    }

    // TensorBoard reads a folder's files in the order of their names, hence the time with a fixed number of digits.
    private void Open()
    {
        Directory.CreateDirectory(folder);
        string name = string.Create(CultureInfo.InvariantCulture, $"events.out.tfevents.{_clock.GetUtcNow().ToUnixTimeMilliseconds() / 1000.0:0000000000.000}.{Environment.MachineName}.{Environment.ProcessId}");
        _stream = new FileStream(Path.Combine(folder, name), FileMode.Append, FileAccess.Write, FileShare.Read);
    }

    private void Append(long step, string prefix, IEnumerable<(string Name, double Value)> scalars)
    {
        var summary = new Summary();
        summary.Value.AddRange(scalars.Select(s => new Summary.Types.Value { Tag = prefix + s.Name, SimpleValue = (float)s.Value }));
        Append(new Event { Step = step, Summary = summary });
    }

    private void Append(Event happened)
    {
        happened.WallTime = _clock.GetUtcNow().ToUnixTimeMilliseconds() / 1000.0;
        byte[] message = happened.ToByteArray();
        byte[] record = new byte[sizeof(ulong) + sizeof(uint) + message.Length + sizeof(uint)];
        BinaryPrimitives.WriteUInt64LittleEndian(record, (ulong)message.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(8), MaskedCrc(record.AsSpan(0, 8)));
        message.CopyTo(record, 12);
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(12 + message.Length), MaskedCrc(message));
        _stream!.Write(record);
        _stream.Flush();
    }
}

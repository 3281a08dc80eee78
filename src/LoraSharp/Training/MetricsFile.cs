using System.Text.Json;
using LoraSharp.Formats;

namespace LoraSharp.Training;

/// <summary>
/// <c>metrics.jsonl</c>: one object an optimizer step with <c>step</c>, <c>loss</c>, <c>grad_norm</c>, <c>learning_rate</c>,
/// <c>tokens</c>, <c>tokens_per_second</c> (and the objective's own numbers), and objects with <c>eval_loss</c> where evaluated.
/// When a run goes on from a checkpoint, what was written after that checkpoint is taken off first.
/// </summary>
public sealed class MetricsFile : ITrainingObserver, IDisposable
{
    private readonly string _path;
    private FileStream? _stream;

    /// <summary>Creates the observer; the file is opened when the run starts.</summary>
    public MetricsFile(string path) => _path = path;

    /// <inheritdoc/>
    public void On(TrainingEvent happened)
    {
        switch (happened)
        {
            case TrainingStarted started:
                Truncate(started);
                _stream = new FileStream(_path, FileMode.Append, FileAccess.Write, FileShare.Read);
                break;
            case StepCompleted step:
                Append(json =>
                {
                    json.WriteNumber("step", step.Step);
                    WriteNumber(json, "loss", step.Loss);
                    WriteNumber(json, "grad_norm", step.GradNorm);
                    WriteNumber(json, "learning_rate", step.LearningRate);
                    json.WriteNumber("tokens", step.Tokens);
                    WriteNumber(json, "tokens_per_second", Math.Round(step.TokensPerSecond, 1));
                    json.WriteNumber("epoch", Math.Round(step.Epoch, 6));
                    WriteAll(json, string.Empty, step.Metrics);
                });
                break;
            case Evaluated evaluated:
                Append(json =>
                {
                    json.WriteNumber("step", evaluated.Step);
                    WriteNumber(json, "eval_loss", evaluated.Loss);
                    if (evaluated.Perplexity is { } perplexity)
                    {
                        WriteNumber(json, "eval_perplexity", perplexity);
                    }

                    WriteAll(json, "eval_", evaluated.Metrics);
                });
                break;
        }
    }

    /// <summary>Closes the file.</summary>
    public void Dispose() => _stream?.Dispose();

    private static void WriteAll(Utf8JsonWriter json, string prefix, IReadOnlyDictionary<string, double> metrics)
    {
        foreach ((string name, double value) in metrics.OrderBy(m => m.Key, StringComparer.Ordinal))
        {
            WriteNumber(json, prefix + name, value);
        }
    }

    // JSON knows no NaN and no infinity.
    private static void WriteNumber(Utf8JsonWriter json, string name, double value)
    {
        if (double.IsFinite(value))
        {
            json.WriteNumber(name, value);
        }
        else
        {
            json.WriteNull(name);
        }
    }

    private void Append(Action<Utf8JsonWriter> write)
    {
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            write(json);
            json.WriteEndObject();
        }

        buffer.WriteByte((byte)'\n');
        try
        {
            _stream!.Write(buffer.GetBuffer(), 0, (int)buffer.Length);
            _stream.Flush();
        }
        catch (IOException error)
        {
            throw new LoraSharpException($"{_path}: cannot be written ({error.Message}). Free some space and run the same command again: it goes on from the last checkpoint.", error);
        }
    }

    private void Truncate(TrainingStarted started)
    {
        if (!File.Exists(_path))
        {
            Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(_path))!);
            return;
        }

        // A killed run may have left half a line, and an evaluation that its checkpoint knows nothing of: whatever is no
        // object of this step or before goes.
        List<string> kept = [];
        foreach (string line in started.Step == 0 ? [] : File.ReadLines(_path))
        {
            if (StepOf(line) is var (step, evaluation) && step <= (evaluation ? started.EvaluatedStep : started.Step))
            {
                kept.Add(line);
            }
        }

        AtomicFile.WriteText(_path, string.Concat(kept.Select(l => l + "\n")));
    }

    private static (long Step, bool IsEvaluation)? StepOf(string line)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(line);
            return document.RootElement.TryGetProperty("step", out JsonElement step) ? (step.GetInt64(), document.RootElement.TryGetProperty("eval_loss", out _)) : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }
}

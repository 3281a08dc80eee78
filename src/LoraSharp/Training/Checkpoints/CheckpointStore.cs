using System.Globalization;
using System.Security.Cryptography;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Training.Checkpoints;

/// <summary>
/// The checkpoints of a run: folders <c>step-00000040</c> that are complete or not there. One is written under another
/// name, flushed to disk and renamed; every file's length and SHA-256 stand in its <c>state.json</c>, which is written last.
/// </summary>
public sealed class CheckpointStore
{
    private const string Prefix = "step-";
    private const string StateName = "state.json";
    private readonly int _keepLast;

    /// <summary>Opens a folder of checkpoints and clears away what a killed run left half-written.</summary>
    /// <param name="folder">Made when first needed.</param>
    /// <param name="keepLast">The newest that are kept.</param>
    public CheckpointStore(string folder, int keepLast)
    {
        Folder = folder;
        _keepLast = keepLast;
        foreach (string left in Directory.Exists(folder) ? Directory.EnumerateDirectories(folder, ".*.tmp") : [])
        {
            Directory.Delete(left, recursive: true);
        }
    }

    /// <summary>Where the checkpoints lie.</summary>
    public string Folder { get; }

    /// <summary>Steps that have a checkpoint, newest first.</summary>
    public IReadOnlyList<long> Steps =>
        !Directory.Exists(Folder) ? [] : [.. Directory.EnumerateDirectories(Folder, Prefix + "*")
            .Select(f => long.TryParse(Path.GetFileName(f)[Prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out long step) ? step : -1)
            .Where(s => s >= 0).OrderDescending()];

    /// <summary>Folder of a step's checkpoint.</summary>
    public string PathOf(long step) => Path.Combine(Folder, Prefix + step.ToString("D8", CultureInfo.InvariantCulture));

    /// <summary>Writes a checkpoint and removes those that are no longer wanted.</summary>
    /// <param name="state">What goes into <c>state.json</c>.</param>
    /// <param name="write">Writes the other files into the folder it is given.</param>
    /// <returns>The checkpoint's folder.</returns>
    public string Save(TrainingState state, Action<string> write)
    {
        ArgumentNullException.ThrowIfNull(state);
        ArgumentNullException.ThrowIfNull(write);
        string final = PathOf(state.Step);
        string aside = Path.Combine(Folder, $".{Path.GetFileName(final)}.{Guid.NewGuid():N}.tmp");
        try
        {
            Directory.CreateDirectory(aside);
            write(aside);
            JsonObject json = JsonSerializer.SerializeToNode(state, TrainingState.Json)!.AsObject();
            json["files"] = new JsonObject(Directory.EnumerateFiles(aside, "*", SearchOption.AllDirectories).Order(StringComparer.Ordinal)
                .Select(f => KeyValuePair.Create(Path.GetRelativePath(aside, f).Replace('\\', '/'), (JsonNode?)Fingerprint(f))));
            AtomicFile.WriteText(Path.Combine(aside, StateName), json.ToJsonString(TrainingState.Json));
            FolderFlush.Flush(aside);
            Remove(final);
            Directory.Move(aside, final);
            FolderFlush.Flush(Folder);
        }
        catch (Exception error) when (AtomicFile.IsRefusal(error) || (error is LoraSharpException && AtomicFile.IsRefusal(error.InnerException)))
        {
            TryDelete(aside);
            Exception refusal = AtomicFile.IsRefusal(error) ? error : error.InnerException!;
            throw new LoraSharpException($"{final}: the checkpoint cannot be written ({AtomicFile.Cause(refusal)}). Earlier checkpoints are untouched; free some space and run the same command again.", refusal);
        }
        catch
        {
            TryDelete(aside);
            throw;
        }

        foreach (long old in Steps.Skip(_keepLast).Where(s => s != state.BestStep))
        {
            Remove(PathOf(old));
        }

        return final;
    }

    /// <summary>The newest checkpoint that is whole.</summary>
    /// <param name="skipped">Hears of each that is not, with what is wrong.</param>
    /// <returns>Its folder and state; null when there is none.</returns>
    public (string Folder, TrainingState State)? FindLatest(Action<CheckpointSkipped>? skipped = null)
    {
        foreach (long step in Steps)
        {
            try
            {
                return (PathOf(step), Read(step));
            }
            catch (LoraSharpException error)
            {
                skipped?.Invoke(new CheckpointSkipped(step, PathOf(step), error.Message));
            }
        }

        return null;
    }

    /// <summary>Reads a checkpoint's state after checking every file of it.</summary>
    /// <exception cref="MalformedFileException">It is not whole.</exception>
    public TrainingState Read(long step)
    {
        string folder = PathOf(step);
        string path = Path.Combine(folder, StateName);
        JsonObject json = JsonFile.ReadObject(path);
        if (json["files"] is not JsonObject files)
        {
            throw new MalformedFileException(path, "has no list of files.");
        }

        foreach ((string name, JsonNode? expected) in files)
        {
            string file = Path.Combine(folder, name);
            if (!File.Exists(file))
            {
                throw new MalformedFileException(file, "is missing from the checkpoint.");
            }

            if (!JsonNode.DeepEquals(Fingerprint(file), expected))
            {
                throw new MalformedFileException(file, $"is damaged: its length or SHA-256 is not the one in {StateName}.");
            }
        }

        try
        {
            return json.Deserialize<TrainingState>(TrainingState.Json) ?? throw new MalformedFileException(path, "is empty.");
        }
        catch (JsonException error)
        {
            throw new MalformedFileException(path, $"is not a training state: {error.Message}", error);
        }
    }

    /// <summary>Differences of two settings, one line each: key, then, now.</summary>
    public static IReadOnlyList<string> Differences(JsonObject then, JsonObject now)
    {
        SortedDictionary<string, string> before = Flatten(then), after = Flatten(now);
        return [.. before.Keys.Union(after.Keys).Order(StringComparer.Ordinal)
            .Where(k => before.GetValueOrDefault(k) != after.GetValueOrDefault(k))
            .Select(k => $"{k}: {before.GetValueOrDefault(k) ?? "(not set)"} in the checkpoint, {after.GetValueOrDefault(k) ?? "(not set)"} now")];
    }

    private static SortedDictionary<string, string> Flatten(JsonObject json)
    {
        SortedDictionary<string, string> flat = new(StringComparer.Ordinal);
        void Visit(string path, JsonNode? node)
        {
            if (node is JsonObject inner)
            {
                foreach ((string key, JsonNode? value) in inner)
                {
                    Visit(path.Length == 0 ? key : $"{path}.{key}", value);
                }
            }
            else if (node is not null)
            {
                flat[path] = node.ToJsonString();
            }
        }

        Visit(string.Empty, json);
        return flat;
    }

    private static JsonObject Fingerprint(string file)
    {
        using FileStream stream = File.OpenRead(file);
        return new JsonObject { ["bytes"] = stream.Length, ["sha256"] = Convert.ToHexStringLower(SHA256.HashData(stream)) };
    }

    // Renamed before it is emptied: a kill half-way leaves something that is cleared away, not a broken checkpoint.
    private static void Remove(string folder)
    {
        if (Directory.Exists(folder))
        {
            string doomed = Path.Combine(Path.GetDirectoryName(folder)!, $".{Path.GetFileName(folder)}.{Guid.NewGuid():N}.tmp");
            Directory.Move(folder, doomed);
            Directory.Delete(doomed, recursive: true);
        }
    }

    private static void TryDelete(string folder)
    {
        try
        {
            Directory.Delete(folder, recursive: true);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            // It has a name that the next run clears away.
        }
    }
}

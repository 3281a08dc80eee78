using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Server;

/// <summary>
/// <c>GET /training?after=BYTES</c>: what a training run has written to its <c>metrics.jsonl</c> since a place in the file.
/// Nothing else of the folder can be read.
/// </summary>
internal sealed class RunMetrics(string folder)
{
    // A long run's file is sent in pieces: the page asks again from where this one ended.
    private const int MostBytes = 1 << 20;

    private readonly string _folder = Path.GetFullPath(folder);

    /// <summary>Whole lines after a place, as JSON objects, and where the next ones will begin.</summary>
    /// <param name="after">The <c>offset</c> of the last answer; 0 at the start. A place beyond the file's end is one of a run that was cut back or made anew: it is told from the start.</param>
    public JsonObject Read(long after)
    {
        var entries = new JsonArray();
        long start = after;
        long read = 0;
        var file = new FileInfo(Path.Combine(_folder, "metrics.jsonl"));
        if (file.Exists)
        {
            using FileStream stream = new(file.FullName, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            start = after < 0 || after > stream.Length ? 0 : after;
            read = Add(stream, start, entries);
        }
        else
        {
            start = 0;
        }

        return new JsonObject
        {
            ["run"] = Path.GetFileName(Path.TrimEndingDirectorySeparator(_folder)),
            ["offset"] = start + read,
            ["restarted"] = start != after,
            ["complete"] = File.Exists(Path.Combine(_folder, ".complete")),
            ["entries"] = entries,
        };
    }

    // The bytes up to the last end of a line; what follows is still being written.
    private static int Add(FileStream stream, long start, JsonArray entries)
    {
        byte[] bytes = new byte[(int)Math.Min(MostBytes, stream.Length - start)];
        stream.Position = start;
        int length = stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
        int end = bytes.AsSpan(0, length).LastIndexOf((byte)'\n') + 1;
        foreach (string line in Encoding.UTF8.GetString(bytes, 0, end).Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            try
            {
                if (JsonNode.Parse(line) is JsonObject entry)
                {
                    entries.Add((JsonNode)entry);
                }
            }
            catch (JsonException)
            {
                // Half a line of a run that was killed; the trainer takes it out when it goes on.
            }
        }

        return end;
    }
}

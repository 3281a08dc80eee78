using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp;

/// <summary>What tables and plots show of a trial.</summary>
/// <param name="Name">The trial's.</param>
/// <param name="Series">What it belongs with: targets, and variant and learning rate where those vary.</param>
/// <param name="Targets">What was adapted.</param>
/// <param name="Rank">r; null for a full fine-tuning.</param>
/// <param name="Parameters">Trained values.</param>
/// <param name="Seconds">Of its training.</param>
/// <param name="Loss">Validation loss, or training loss without validation; null when it failed.</param>
/// <param name="Test">Scores on the test rows by the names of <c>sweep.json</c>; empty without them.</param>
public sealed record SweepPoint(string Name, string Series, string Targets, int? Rank, long Parameters, double Seconds, double? Loss, IReadOnlyDictionary<string, double> Test)
{
    /// <summary>Whether every weight was trained.</summary>
    public bool IsFull => Rank is null;

    /// <summary>The trials of a <c>sweep.json</c>.</summary>
    /// <exception cref="MalformedFileException">The file is no such JSON.</exception>
    public static IReadOnlyList<SweepPoint> Read(string path)
    {
        JsonObject json = JsonFile.ReadObject(path);
        try
        {
            return FromTrials(json["trials"]!.AsArray());
        }
        catch (Exception fault) when (fault is InvalidOperationException or NullReferenceException or FormatException)
        {
            throw new MalformedFileException(path, $"expected the results of a sweep with a list of trials ({fault.Message}).", fault);
        }
    }

    private static IReadOnlyList<SweepPoint> FromTrials(JsonArray trials)
    {
        bool variants = Varies("variant"), rates = Varies("learning_rate");
        return [.. trials.Select(Point)];

        bool Varies(string key) => trials.Where(t => t!["rank"] is not null).Select(t => t![key]!.ToString()).Distinct().Count() > 1;

        SweepPoint Point(JsonNode? node)
        {
            JsonNode t = node!;
            string[] parts = [(string)t["targets"]!, .. variants ? [(string)t["variant"]!] : Array.Empty<string>(), .. rates ? [$"lr {t["learning_rate"]}"] : Array.Empty<string>()];
            IEnumerable<KeyValuePair<string, double>> test = (t["test"] as JsonObject ?? []).Where(p => p.Value?.GetValueKind() == System.Text.Json.JsonValueKind.Number)
                .Select(p => KeyValuePair.Create(p.Key, (double)p.Value!));
            return new SweepPoint(
                (string)t["name"]!, string.Join(", ", parts), (string)t["targets"]!, (int?)t["rank"], (long)t["parameters"]!, (double)t["seconds"]!, (double?)t["score"],
                new Dictionary<string, double>(test));
        }
    }
}

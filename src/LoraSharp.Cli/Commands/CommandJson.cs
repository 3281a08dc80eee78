using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;

namespace LoraSharp.Cli.Commands;

/// <summary>Reports as one JSON object with snake_case keys.</summary>
internal static class CommandJson
{
    private static readonly JsonSerializerOptions Options = new()
    {
        WriteIndented = true,
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        Converters = { new JsonStringEnumConverter() },
    };

    /// <summary>A report as an object that more can be put into.</summary>
    public static JsonObject ToObject(object report) => JsonSerializer.SerializeToNode(report, report.GetType(), Options)!.AsObject();

    /// <summary>Writes a report to standard output.</summary>
    public static void Write(object report) => Console.Out.WriteLine(JsonSerializer.Serialize(report, report.GetType(), Options));
}

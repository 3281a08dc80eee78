using System.Text.Json.Nodes;

namespace LoraSharp.Inference.Constraints;

/// <summary>A function that a model may call.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Parameters">JSON schema of its arguments, an object; null for no arguments.</param>
public sealed record ToolForm(string Name, JsonNode? Parameters)
{
    /// <summary>A function of a chat request: <c>{"type": "function", "function": {"name", "parameters"}}</c>, or what stands in <c>function</c>.</summary>
    /// <param name="tool">As in the request; its form has been checked.</param>
    public static ToolForm Of(JsonNode tool)
    {
        ArgumentNullException.ThrowIfNull(tool);
        JsonNode function = tool["function"] ?? tool;
        return new ToolForm((string)function["name"]!, function["parameters"]);
    }
}

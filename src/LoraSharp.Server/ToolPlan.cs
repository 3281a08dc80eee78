using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Chat.ToolCalls;
using LoraSharp.Inference;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Server;

/// <summary>The tools of a chat request and how the model is brought to call them.</summary>
/// <param name="Tools">As the request has them; null where none may be called.</param>
/// <param name="Format">How the model writes calls.</param>
/// <param name="Opening">What its answer begins with, so that it calls; empty where it may choose.</param>
/// <param name="ByPreamble">Whether the template knows no tools, so that they are told in the system message.</param>
/// <param name="Parallel">Whether it may call several at once.</param>
internal sealed record ToolPlan(JsonArray? Tools, ToolCallFormat Format, string Opening, bool ByPreamble, bool Parallel)
{
    private const int Most = 128;
    private const int LongestName = 64;

    /// <summary>Whether the marks of a call are special tokens, which texts leave out otherwise.</summary>
    public bool NeedsSpecialTokens => Tools is not null && Format is (ToolCallFormat.Llama or ToolCallFormat.Mistral);

    /// <summary>What ends the answer behind the one call that is wanted.</summary>
    public IReadOnlyList<string> Stops => Tools is not null && !Parallel && Format is (ToolCallFormat.Hermes or ToolCallFormat.QwenXml) && Opening.Length > 0 ? ["</tool_call>"] : [];

    public static ToolPlan Read(RequestBody body, ChatTemplate template)
    {
        JsonArray? tools = body.List("tools", Most);
        string[] names = [.. (tools ?? []).Select((t, i) => Name(t, i))];
        if (names.GroupBy(n => n, StringComparer.Ordinal).FirstOrDefault(g => g.Count() > 1) is { } twice)
        {
            throw ApiError.Invalid("tools", $"tools: the function '{twice.Key}' is there twice.");
        }

        bool parallel = !body.Has("parallel_tool_calls") || body.Flag("parallel_tool_calls");
        (string choice, string? forced) = Choice(body, names);
        if (tools is null or { Count: 0 } || choice == "none")
        {
            return new ToolPlan(null, ToolCallFormat.None, "", !template.KnowsTools, parallel);
        }

        ToolCallFormat format = template.KnowsTools ? ToolCallParser.Detect(template.ToolSource) : ToolCallFormat.Hermes;
        format = format == ToolCallFormat.None ? ToolCallFormat.Hermes : format;
        string opening = choice == "auto" ? "" : ToolCallOpening.For(format, template.ToolSource, forced ?? (names.Length == 1 ? names[0] : null));
        return new ToolPlan(tools, format, opening, !template.KnowsTools, parallel && forced is null);
    }

    /// <summary>An answer that must be a call can be nothing else: one call of an offered function, with arguments that satisfy its schema.</summary>
    /// <exception cref="ApiError">The schema of a strict function cannot be kept.</exception>
    public GenerationOptions Constrain(GenerationOptions options, ServedModel model)
    {
        if (Opening.Length == 0)
        {
            return options;
        }

        ToolForm[] forms = [.. Tools!.Select(t => ToolForm.Of(t!))];
        try
        {
            return With(forms);
        }
        catch (ConstraintException error)
        {
            if (Tools!.Any(t => t!["function"]!["strict"]?.GetValueKind() == JsonValueKind.True))
            {
                throw new ApiError(400, error.Message, "tools", "invalid_schema");
            }

            // Without strict the schema is a hint: the name and the form of the call still hold.
            return Format == ToolCallFormat.QwenXml ? options : With([.. forms.Select(f => f with { Parameters = new JsonObject { ["type"] = "object" } })]);
        }

        GenerationOptions With(IReadOnlyList<ToolForm> tools) =>
            options with { Sampling = options.Sampling with { Constraint = model.Constraints.ToolCall(tools, Format, model.Template!.ToolSource, Opening) } };
    }

    private static string Name(JsonNode? tool, int index)
    {
        string at = $"tools[{index}]";
        if (tool is not JsonObject || (string?)(tool["type"] as JsonValue) is not "function" || tool["function"] is not JsonObject function)
        {
            throw RequestBody.Wrong(at, "an object of the type function with its name, description and parameters", tool);
        }

        return function["name"] is JsonValue value && value.GetValueKind() == JsonValueKind.String && value.GetValue<string>() is { Length: > 0 and <= LongestName } name && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '_' or '-' or '.')
            ? name
            : throw RequestBody.Wrong(at + ".function.name", $"1 to {LongestName} letters, digits, _, - and .", function["name"]);
    }

    private static (string Choice, string? Name) Choice(RequestBody body, string[] names)
    {
        if (body.Value("tool_choice") is not { } choice)
        {
            return ("auto", null);
        }

        if (choice.ValueKind == JsonValueKind.String && choice.GetString() is ("none" or "auto" or "required"))
        {
            return choice.GetString() != "required" || names.Length > 0 ? (choice.GetString()!, null) : throw ApiError.Invalid("tool_choice", "tool_choice is required, and there are no tools.");
        }

        if (choice.ValueKind == JsonValueKind.Object && choice.TryGetProperty("function", out JsonElement function) && function.ValueKind == JsonValueKind.Object && function.TryGetProperty("name", out JsonElement name) && name.ValueKind == JsonValueKind.String)
        {
            return names.Contains(name.GetString()) ? ("function", name.GetString()) : throw ApiError.Invalid("tool_choice", $"tool_choice: there is no function '{ApiError.Shorten(name.GetString())}' among the tools.");
        }

        throw RequestBody.Wrong("tool_choice", "none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}", choice);
    }
}

using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat.ToolCalls;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Inference.Constraints.Json;

/// <summary>One call of one of some functions, as a model writes calls.</summary>
internal sealed class ToolCallGrammar
{
    private readonly GrammarRules _rules;
    private readonly Nfa _nfa;
    private readonly ToolCallFormat _format;
    private readonly bool _bareArguments;

    private ToolCallGrammar(CompileBudget budget, ToolCallFormat format, bool bareArguments)
    {
        _rules = new GrammarRules(budget);
        _nfa = new Nfa(budget);
        _format = format;
        _bareArguments = bareArguments;
    }

    /// <summary>Puts it together.</summary>
    /// <param name="tools">The functions.</param>
    /// <param name="format">How the model writes calls.</param>
    /// <param name="bareArguments">Whether it writes <c>[TOOL_CALLS]name[ARGS]{...}</c> (Mistral's newer templates).</param>
    /// <param name="opening">The call's beginning where that stands in the prompt already.</param>
    /// <param name="otherwise">Schema of a JSON text that may come instead of a call; null for a call only.</param>
    /// <param name="budget">What it may cost.</param>
    /// <exception cref="ConstraintException">A function's schema cannot be used, or the opening is that of no function.</exception>
    public static Grammar Build(IReadOnlyList<ToolForm> tools, ToolCallFormat format, bool bareArguments, string opening, JsonNode? otherwise, CompileBudget budget)
    {
        var grammar = new ToolCallGrammar(budget, format, bareArguments);
        int start = grammar._nfa.AddState();
        int accept = grammar._nfa.AddState();
        bool any = false;
        foreach (ToolForm tool in tools)
        {
            string lead = grammar.Lead(tool.Name);
            if (lead.StartsWith(opening, StringComparison.Ordinal))
            {
                any = true;
                int behind = grammar.AddArguments(grammar._nfa.Literal(start, Encoding.UTF8.GetBytes(lead[opening.Length..])), tool);
                grammar._nfa.Epsilon(grammar._nfa.Literal(behind, Encoding.UTF8.GetBytes(grammar.Tail)), accept);
            }
        }

        if (!any)
        {
            throw new ConstraintException($"None of the {tools.Count} functions is called with '{opening}'.");
        }

        if (otherwise is not null)
        {
            grammar._nfa.Call(start, accept, new JsonSchemaRules(grammar._rules, otherwise).Build());
        }

        grammar._rules.Define(0, grammar._nfa, start, accept);
        return grammar._rules.ToGrammar();
    }

    private string Tail => _format switch
    {
        ToolCallFormat.QwenXml => "</function>\n</tool_call>",
        ToolCallFormat.Llama => "}",
        ToolCallFormat.Mistral => _bareArguments ? "" : "}]",
        _ => "}\n</tool_call>",
    };

    private string Lead(string name)
    {
        string quoted = JsonText.Escape(name);
        return _format switch
        {
            ToolCallFormat.QwenXml => $"<tool_call>\n<function={name}>\n",
            ToolCallFormat.Llama => $$"""{"name": "{{quoted}}", "parameters": """,
            ToolCallFormat.Mistral => _bareArguments ? $"[TOOL_CALLS]{name}[ARGS]" : $$"""[TOOL_CALLS][{"name": "{{quoted}}", "arguments": """,
            _ => $"<tool_call>\n{{\"name\": \"{quoted}\", \"arguments\": ",
        };
    }

    private int AddArguments(int from, ToolForm tool)
    {
        JsonNode parameters = tool.Parameters is JsonObject { Count: > 0 } given ? given : new JsonObject { ["type"] = "object", ["properties"] = new JsonObject() };
        var schemas = new JsonSchemaRules(_rules, parameters);
        if (_format == ToolCallFormat.QwenXml)
        {
            return AddParameters(from, schemas, parameters);
        }

        int done = _nfa.AddState();
        _nfa.Call(from, done, schemas.Build());
        return done;
    }

    // <parameter=key>, a line end, the value, a line end, </parameter>, a line end; texts without quotes.
    private int AddParameters(int at, JsonSchemaRules schemas, JsonNode parameters)
    {
        string[] required = parameters["required"] is JsonArray list ? [.. list.Select(n => n?.ToString() ?? "")] : [];
        foreach ((string name, JsonNode? schema) in parameters["properties"] as JsonObject ?? [])
        {
            int value = _nfa.Literal(at, Encoding.UTF8.GetBytes($"<parameter={name}>\n"));
            int done = _nfa.AddState();
            if (schema is JsonObject text && text["type"] is JsonValue type && type.GetValueKind() == JsonValueKind.String && type.GetValue<string>() == "string")
            {
                AddText(value, done, text, schemas, "$.properties." + name);
            }
            else
            {
                _nfa.Call(value, done, schemas.Build(schema));
            }

            int next = _nfa.Literal(done, "\n</parameter>\n"u8);
            if (!required.Contains(name))
            {
                _nfa.Epsilon(at, next);
            }

            at = next;
        }

        return at;
    }

    private void AddText(int from, int to, JsonObject schema, JsonSchemaRules schemas, string path)
    {
        if (schema["enum"] is JsonArray values)
        {
            foreach (JsonNode? value in values.Where(v => v?.GetValueKind() == JsonValueKind.String))
            {
                _nfa.Epsilon(_nfa.Literal(from, Encoding.UTF8.GetBytes(value!.GetValue<string>())), to);
            }

            return;
        }

        // No tag can begin in it, so that it ends where its tag does.
        _nfa.Embed(schemas.PlainText(schema, CodePointSet.Single('<').Complement(), path), from, to);
    }
}

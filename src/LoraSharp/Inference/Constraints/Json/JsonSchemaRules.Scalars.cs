using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Inference.Constraints.Json;

/// <content>Strings, numbers and given values.</content>
internal sealed partial class JsonSchemaRules
{
    private const int MostLiterals = 5000;
    private const int MostMultiple = 10_000;

    private void DefineString(int rule, JsonObject schema, string path)
    {
        (int least, int most) = Lengths(schema, path);
        Dfa[] forms = [.. Forms(schema, path)];
        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        int open = nfa.Literal(start, "\""u8);
        if (forms.Length == 0)
        {
            int inside = nfa.AddState();
            nfa.Epsilon(open, inside);
            JsonText.AddCharacter(nfa, inside, inside, CountAction.Increment);
            nfa.Bytes(inside, accept, (byte)'"', (byte)'"', CountAction.Close);
            _rules.Define(rule, nfa, start, accept, isContainer: false, least, most);
            return;
        }

        if (least > 0 || most < int.MaxValue)
        {
            // With a form of its own there is nothing to count by: the length becomes a form too.
            var length = new RegexNode.Repeat(new RegexNode.OneOf(CharacterClass.Any), least, most == int.MaxValue ? null : most);
            forms = [.. forms, RegexAutomaton.Build(length, json: true, search: false, Budget)];
        }

        Dfa all = forms.Aggregate((a, b) => Dfa.Intersect(a, b, Budget));
        int close = nfa.AddState();
        nfa.Embed(all, open, close);
        nfa.Bytes(close, accept, (byte)'"', (byte)'"');
        _rules.Define(rule, nfa, start, accept);
    }

    private static (int Least, int Most) Lengths(JsonObject schema, string path)
    {
        int least = SchemaKeywords.Count(schema, "minLength", path) ?? 0;
        int most = SchemaKeywords.Count(schema, "maxLength", path) ?? int.MaxValue;
        return least <= most ? (least, most) : throw SchemaKeywords.Fault(path, $"minLength {least} is above maxLength {most}");
    }

    /// <summary>Texts without quotes that a string's schema lets through, of given characters.</summary>
    public Dfa PlainText(JsonObject schema, CodePointSet characters, string path)
    {
        SchemaKeywords.Check(schema, path);
        (int least, int most) = Lengths(schema, path);
        var any = new RegexNode.Repeat(new RegexNode.OneOf(characters), least, most == int.MaxValue ? null : most);
        return Forms(schema, path, json: false).Aggregate(RegexAutomaton.Build(any, json: false, search: false, Budget), (a, b) => Dfa.Intersect(a, b, Budget));
    }

    private IEnumerable<Dfa> Forms(JsonObject schema, string path, bool json = true)
    {
        foreach (string pattern in SchemaKeywords.Texts(schema, "pattern", path))
        {
            yield return Located(path + ".pattern", () => RegexAutomaton.Build(pattern, json, search: true, Budget));
        }

        foreach (string format in SchemaKeywords.Texts(schema, "format", path))
        {
            if (TextFormats.Find(format) is { } expression)
            {
                yield return RegexAutomaton.Build(expression, json, search: false, Budget);
            }
        }
    }

    private void DefineNumber(int rule, JsonObject schema, bool isWhole, string path)
    {
        NumberBounds bounds = SchemaKeywords.Bounds(schema, path);
        decimal? step = SchemaKeywords.Number(schema, "multipleOf", path);
        if (step <= 0)
        {
            throw SchemaKeywords.Wrong(path, "multipleOf", "a number above 0", schema["multipleOf"]);
        }

        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        if (step is null or 1 || (step < 1 && FractionOf(step.Value) > 0))
        {
            NumberAutomaton.Add(nfa, start, accept, bounds, isWhole || step == 1 ? 0 : step is { } part ? FractionOf(part) : NumberAutomaton.MostFraction);
        }
        else if (step == Math.Floor(step.Value) && step <= MostMultiple)
        {
            NumberAutomaton.Add(nfa, start, accept, bounds, 0);
            Dfa whole = Determinizer.Run(nfa, start, accept);
            whole.PruneDeadEnds();
            Dfa multiples = Dfa.Intersect(whole, Multiples((int)step.Value), Budget);
            nfa = new Nfa(Budget);
            start = nfa.AddState();
            accept = nfa.AddState();
            nfa.Embed(multiples, start, accept);
        }
        else
        {
            throw SchemaKeywords.Fault(path, $"'multipleOf' {step}: only whole numbers up to {MostMultiple} and 0.1, 0.01, ... can be kept");
        }

        _rules.Define(rule, nfa, start, accept);
    }

    // Digits behind the point of 0.1, 0.01, ...; 0 for anything else.
    private static int FractionOf(decimal step)
    {
        for (int digits = 1; digits <= NumberAutomaton.MostFraction; digits++)
        {
            step *= 10;
            if (step >= 1)
            {
                return step == 1 ? digits : 0;
            }
        }

        return 0;
    }

    private Dfa Multiples(int step)
    {
        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        int[] remainders = [.. Enumerable.Range(0, step).Select(_ => nfa.AddState())];
        nfa.Epsilon(start, remainders[0]);
        nfa.Bytes(start, remainders[0], (byte)'-', (byte)'-');
        for (int r = 0; r < step; r++)
        {
            for (int digit = 0; digit < 10; digit++)
            {
                nfa.Bytes(remainders[r], remainders[((r * 10) + digit) % step], (byte)('0' + digit), (byte)('0' + digit));
            }
        }

        nfa.Epsilon(remainders[0], accept);
        return Determinizer.Run(nfa, start, accept);
    }

    private void DefineLiterals(int rule, JsonObject schema, string path)
    {
        List<JsonNode?> values = schema.TryGetPropertyValue("const", out JsonNode? single) ? [single] : [.. SchemaKeywords.List(schema, "enum", path)!];
        if (schema.ContainsKey("const") && SchemaKeywords.List(schema, "enum", path) is { } list)
        {
            values = [.. values.Where(v => list.Any(w => JsonNode.DeepEquals(v, w)))];
        }

        if (values.Count > MostLiterals)
        {
            throw SchemaKeywords.Fault(path, $"'enum' has {values.Count} values; at most {MostLiterals} are taken");
        }

        JsonObject beside = Without(Without(schema, "enum"), "const");
        if (beside.Any(p => SchemaKeywords.IsAsserting(p.Key)))
        {
            values = [.. values.Where(v => Fits(v, beside, path))];
        }

        var nfa = new Nfa(Budget);
        int start = nfa.AddState();
        int accept = nfa.AddState();
        foreach (JsonNode? value in values)
        {
            nfa.Epsilon(nfa.Literal(start, JsonText.Literal(value)), accept);
        }

        _rules.Define(rule, nfa, start, accept);
    }

    // Whether a given value satisfies what stands beside enum or const.
    private bool Fits(JsonNode? value, JsonObject schema, string path)
    {
        JsonValueKind kind = value?.GetValueKind() ?? JsonValueKind.Null;
        string type = kind switch
        {
            JsonValueKind.Object => "object",
            JsonValueKind.Array => "array",
            JsonValueKind.String => "string",
            JsonValueKind.Number => "number",
            JsonValueKind.Null => "null",
            _ => "boolean",
        };
        IReadOnlyList<string> types = SchemaKeywords.Texts(schema, "type", path);
        if (types.Count > 0 && !types.Contains(type) && !(type == "number" && types.Contains("integer") && SchemaKeywords.ToDecimal(value!) is var whole && whole == Math.Floor(whole)))
        {
            return false;
        }

        switch (type)
        {
            case "string":
                string text = value!.GetValue<string>();
                (int least, int most) = Lengths(schema, path);
                int length = text.EnumerateRunes().Count();
                byte[] bytes = Encoding.UTF8.GetBytes(JsonText.Escape(text));
                return length >= least && length <= most && Forms(schema, path).All(f => f.Matches(bytes));
            case "number":
                decimal number = SchemaKeywords.ToDecimal(value!);
                NumberBounds bounds = SchemaKeywords.Bounds(schema, path);
                decimal? step = SchemaKeywords.Number(schema, "multipleOf", path);
                return !(number < bounds.Least || (bounds.LeastIsOutside && number == bounds.Least) || number > bounds.Most || (bounds.MostIsOutside && number == bounds.Most))
                    && (step is null || number % step == 0);
            case "object" or "array" when schema.Any(p => p.Key != "type" && SchemaKeywords.IsAsserting(p.Key)):
                throw SchemaKeywords.Fault(path, "'enum' or 'const' with objects or lists beside other keywords cannot be kept. Leave the other keywords out");
            default:
                return true;
        }
    }

    private static T Located<T>(string path, Func<T> make)
    {
        try
        {
            return make();
        }
        catch (ConstraintException error)
        {
            throw SchemaKeywords.Fault(path, error.Message.TrimEnd('.'));
        }
    }
}

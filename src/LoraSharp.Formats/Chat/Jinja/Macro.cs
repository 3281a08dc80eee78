namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>A macro with the scope it was defined in, or the body of a call block (<c>caller</c>).</summary>
internal sealed class Macro(MacroDefinition definition, Scope scope, Renderer renderer)
{
    public string? Name => definition.Name;

    public IReadOnlyList<string> Parameters => definition.Parameters;

    public bool Uses(string name) => definition.UsedNames.Contains(name);

    public string Call(Arguments arguments)
    {
        var local = new Scope(scope);
        IReadOnlyList<string> parameters = definition.Parameters;
        int given = Math.Min(arguments.Positional.Count, parameters.Count);
        int firstDefault = parameters.Count - definition.Defaults.Count;
        var values = new (bool Given, object? Value)[parameters.Count];
        for (int i = 0; i < parameters.Count; i++)
        {
            values[i] = i < given ? (true, arguments[i]) : arguments.TryTakeKeyword(parameters[i], out object? named) ? (true, named) : (false, null);
        }

        if (Uses("caller") && !parameters.Contains("caller"))
        {
            local.Set("caller", arguments.TryTakeKeyword("caller", out object? caller) && caller is not null ? caller : new Undefined("No caller defined"));
        }

        AcceptRest(local, arguments);
        // Defaults are computed in order inside the macro, so that they may use parameters before them.
        for (int i = 0; i < parameters.Count; i++)
        {
            local.Set(parameters[i], values[i].Given ? values[i].Value
                : i >= firstDefault ? renderer.Evaluate(definition.Defaults[i - firstDefault], local)
                : new Undefined($"parameter {PythonText.Repr(parameters[i])} was not provided"));
        }

        return renderer.RenderToText(definition.Body, local);
    }

    private void AcceptRest(Scope local, Arguments arguments)
    {
        int count = definition.Parameters.Count;
        if (Uses("kwargs"))
        {
            var rest = new PythonDict();
            foreach ((string name, object? value) in arguments.Keywords)
            {
                rest.Set(name, value);
            }

            local.Set("kwargs", rest);
        }
        else if (arguments.Keywords.Count > 0)
        {
            throw PythonError.Type(arguments.Keywords.Any(keyword => keyword.Key == "caller")
                ? $"macro {PythonText.Repr(Name)} was invoked with two values for the special caller argument. This is most likely a bug."
                : $"macro {PythonText.Repr(Name)} takes no keyword argument {PythonText.Repr(arguments.Keywords[0].Key)}");
        }

        if (Uses("varargs"))
        {
            local.Set("varargs", new PythonTuple(arguments.Positional.Skip(count).ToArray()));
        }
        else if (arguments.Positional.Count > count)
        {
            throw PythonError.Type($"macro {PythonText.Repr(Name)} takes not more than {count} argument(s)");
        }
    }
}

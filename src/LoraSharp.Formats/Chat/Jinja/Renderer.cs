using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Runs a parsed template once: the statements.</summary>
internal sealed partial class Renderer
{
    private readonly Budget _budget;
    private readonly Scope _globals;
    private readonly Stack<StringBuilder> _outputs = new();
    private readonly List<(int Start, string Text)> _generations = [];
    private readonly StringBuilder _top = new();
    private StringBuilder _output;

    public Renderer(Budget budget, Func<DateTime> now)
    {
        _budget = budget;
        _globals = Globals.Create(budget, now);
        _output = _top;
    }

    private enum Flow
    {
        Normal,
        Break,
        Continue,
    }

    /// <summary>The line that was being run, for error messages.</summary>
    public int Line { get; private set; }

    public Budget Budget => _budget;

    /// <summary>Renders the whole template.</summary>
    /// <returns>The text, and where in it what generation blocks rendered lies.</returns>
    public RenderedChat Render(IReadOnlyList<Statement> template, IEnumerable<KeyValuePair<string, object?>> variables)
    {
        var scope = new Scope(_globals);
        foreach ((string name, object? value) in variables)
        {
            scope.Set(name, value);
        }

        Run(template, scope);
        string text = _top.ToString();
        return new RenderedChat(text, _generations.Select(generation => Locate(text, generation.Start, generation.Text)).OfType<(int, int)>().ToArray());
    }

    public string RenderToText(IReadOnlyList<Statement> body, Scope scope)
    {
        _outputs.Push(_output);
        var buffer = new StringBuilder();
        _output = buffer;
        try
        {
            Run(body, scope);
        }
        finally
        {
            _output = _outputs.Pop();
        }

        return buffer.ToString();
    }

    // A generation block inside a macro ends up somewhere behind what was written when it ran; one whose text a filter
    // changed, or that is never printed, marks nothing.
    private static (int Start, int End)? Locate(string text, int start, string generated)
    {
        int at = text.IndexOf(generated, start, StringComparison.Ordinal);
        return at < 0 ? null : (at, at + generated.Length);
    }

    private Flow Run(IReadOnlyList<Statement> body, Scope scope)
    {
        Budget.Depth();
        foreach (Statement statement in body)
        {
            _budget.Step();
            Line = statement.Line;
            Flow flow = Run(statement, scope);
            if (flow != Flow.Normal)
            {
                return flow;
            }
        }

        return Flow.Normal;
    }

    private Flow Run(Statement statement, Scope scope)
    {
        switch (statement)
        {
            case OutputStatement output:
                foreach (Expression part in output.Parts)
                {
                    Write(part is TextExpression text ? text.Text : PythonText.Str(Evaluate(part, scope)));
                }

                return Flow.Normal;
            case IfStatement conditional:
                return Run(Choose(conditional, scope), scope);
            case ForStatement loop:
                RunFor(loop, scope);
                return Flow.Normal;
            case AssignStatement assign:
                Assign(assign.Target, Evaluate(assign.Value, scope), scope);
                return Flow.Normal;
            case AssignBlockStatement assign:
                object? captured = RenderToText(assign.Body, new Scope(scope));
                Assign(assign.Target, assign.Filter is null ? captured : ApplyFilters(assign.Filter, captured, scope), scope);
                return Flow.Normal;
            case MacroStatement macro:
                scope.Set(macro.Macro.Name!, new Macro(macro.Macro, scope, this));
                return Flow.Normal;
            case CallBlockStatement call:
                Write(PythonText.Str(Call(call.Call, scope, new Macro(call.Caller, scope, this))));
                return Flow.Normal;
            case FilterBlockStatement filter:
                Write(PythonText.Str(ApplyFilters(filter.Filter, RenderToText(filter.Body, new Scope(scope)), scope)));
                return Flow.Normal;
            case GenerationStatement generation:
                string generated = RenderToText(generation.Body, new Scope(scope));
                _generations.Add((_top.Length, generated));
                Write(generated);
                return Flow.Normal;
            case WithStatement with:
                var inner = new Scope(scope);
                foreach ((Expression target, Expression value) in with.Bindings)
                {
                    Assign(target, Evaluate(value, scope), inner);
                }

                return Run(with.Body, inner);
            case ScopeStatement block:
                return Run(block.Body, new Scope(scope));
            case BreakStatement:
                return Flow.Break;
            default:
                return Flow.Continue;
        }
    }

    private IReadOnlyList<Statement> Choose(IfStatement conditional, Scope scope)
    {
        foreach ((Expression test, IReadOnlyList<Statement> body) in conditional.Branches)
        {
            if (PythonOperators.Truth(Evaluate(test, scope)))
            {
                return body;
            }
        }

        return conditional.Else;
    }

    private void RunFor(ForStatement loop, Scope scope)
    {
        object? iterable = Evaluate(loop.Iterable, scope);
        if (loop.Recursive)
        {
            Write(Recurse(iterable, 0));
        }
        else
        {
            RunLoop(loop, iterable, scope, null, 0);
        }

        string Recurse(object? items, long depth)
        {
            _outputs.Push(_output);
            var buffer = new StringBuilder();
            _output = buffer;
            try
            {
                RunLoop(loop, items, scope, Recurse, depth);
            }
            finally
            {
                _output = _outputs.Pop();
            }

            return buffer.ToString();
        }
    }

    private void RunLoop(ForStatement loop, object? iterable, Scope scope, Func<object?, long, string>? recurse, long depth)
    {
        Budget.Depth();
        IEnumerable<object?> items = PythonOperators.Items(iterable);
        if (loop.Condition is not null)
        {
            items = Where(items, loop, scope);
            iterable = null;
        }

        var context = new LoopContext(iterable, items, recurse, depth);
        // Jinja takes the else branch when no round came to its end, which a break or continue prevents too.
        bool completed = false;
        while (context.MoveNext(out object? item))
        {
            _budget.Step();
            var inner = new Scope(scope);
            inner.Set("loop", context);
            Assign(loop.Target, item, inner);
            Flow flow = Run(loop.Body, inner);
            if (flow == Flow.Break)
            {
                break;
            }

            completed |= flow == Flow.Normal;
        }

        if (!completed && loop.Else.Count > 0)
        {
            Run(loop.Else, new Scope(scope));
        }
    }

    private IEnumerable<object?> Where(IEnumerable<object?> items, ForStatement loop, Scope scope)
    {
        foreach (object? item in items)
        {
            _budget.Step();
            var inner = new Scope(scope);
            Assign(loop.Target, item, inner);
            if (PythonOperators.Truth(Evaluate(loop.Condition!, inner)))
            {
                yield return item;
            }
        }
    }

    private void Assign(Expression target, object? value, Scope scope)
    {
        switch (target)
        {
            case NameExpression name:
                scope.Set(name.Name, value);
                break;
            case NamespaceExpression member:
                Namespace space = Lookup(member.Name, scope) as Namespace
                    ?? throw new PythonError(ErrorKind.Runtime, "cannot assign attribute on non-namespace object");
                space.Attributes.Set(member.Attribute, value);
                break;
            case TupleExpression tuple:
                List<object?> items = PythonOperators.ItemsOrNull(value) is { } sequence
                    ? [.. sequence.Take(tuple.Items.Count + 1)]
                    : throw PythonError.Type($"cannot unpack non-iterable {PythonText.TypeName(value)} object");
                if (items.Count != tuple.Items.Count)
                {
                    throw PythonError.Value(items.Count < tuple.Items.Count
                        ? $"not enough values to unpack (expected {tuple.Items.Count}, got {items.Count})"
                        : $"too many values to unpack (expected {tuple.Items.Count})");
                }

                for (int i = 0; i < items.Count; i++)
                {
                    Assign(tuple.Items[i], items[i], scope);
                }

                break;
        }
    }

    private void Write(string text)
    {
        _budget.Grow(_output.Length, text.Length);
        _output.Append(text);
    }
}

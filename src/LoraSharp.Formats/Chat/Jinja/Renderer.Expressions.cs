using System.Text;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Runs a parsed template once: the expressions.</summary>
internal sealed partial class Renderer
{
    public object? Evaluate(Expression expression, Scope scope)
    {
        Budget.Depth();
        _budget.Step();
        switch (expression)
        {
            case ConstantExpression constant:
                return constant.Value;
            case NameExpression name:
                return Lookup(name.Name, scope);
            case AttributeExpression attribute:
                return Members.GetAttribute(Evaluate(attribute.Target, scope), attribute.Name, _budget);
            case ItemExpression { Argument: SliceExpression slice } item:
                return Members.Slice(Evaluate(item.Target, scope), Optional(slice.Start, scope), Optional(slice.Stop, scope), Optional(slice.Step, scope), _budget);
            case ItemExpression item:
                return Members.GetItem(Evaluate(item.Target, scope), Evaluate(item.Argument, scope), _budget);
            case CallExpression call:
                return Call(call, scope, null);
            case FilterExpression filter:
                return ApplyFilters(filter, null, scope);
            case TestExpression test:
                Line = test.Line;
                return Tests.Apply(test.Name, Evaluate(test.Input, scope), Collect(test.Arguments, test.Name, scope), _budget);
            case BinaryExpression binary:
                object? left = Evaluate(binary.Left, scope);
                object? right = Evaluate(binary.Right, scope);
                Line = binary.Line;
                return PythonOperators.Binary(binary.Operator, left, right, _budget);
            case CompareExpression compare:
                return Compare(compare, scope);
            case LogicalExpression logical:
                object? first = Evaluate(logical.Left, scope);
                return PythonOperators.Truth(first) == logical.IsAnd ? Evaluate(logical.Right, scope) : first;
            case NotExpression not:
                return !PythonOperators.Truth(Evaluate(not.Operand, scope));
            case ConditionalExpression conditional:
                return PythonOperators.Truth(Evaluate(conditional.Test, scope)) ? Evaluate(conditional.Then, scope)
                    : conditional.Else is not null ? Evaluate(conditional.Else, scope)
                    : new Undefined($"the inline if-expression on line {conditional.Line} evaluated to false and no else section was defined.");
            case ConcatExpression concat:
                return Concatenate(concat, scope);
            case UnaryExpression unary:
                return PythonOperators.Negate(Evaluate(unary.Operand, scope), unary.IsMinus);
            case ListExpression list:
                return list.Items.Select(item => Evaluate(item, scope)).ToList();
            case TupleExpression tuple:
                return new PythonTuple(tuple.Items.Select(item => Evaluate(item, scope)).ToArray());
            case DictExpression dict:
                return CreateDict(dict, scope);
            default:
                return ((TextExpression)expression).Text;
        }
    }

    private object? Optional(Expression? expression, Scope scope) => expression is null ? null : Evaluate(expression, scope);

    private static object? Lookup(string name, Scope scope) => scope.TryGet(name, out object? value) ? value : Undefined.Variable(name);

    private PythonDict CreateDict(DictExpression expression, Scope scope)
    {
        var dict = new PythonDict();
        foreach ((Expression key, Expression value) in expression.Items)
        {
            dict.Set(Evaluate(key, scope), Evaluate(value, scope));
        }

        return dict;
    }

    private string Concatenate(ConcatExpression concat, Scope scope)
    {
        var result = new StringBuilder();
        foreach (Expression item in concat.Items)
        {
            string text = PythonText.Str(Evaluate(item, scope));
            _budget.Grow(result.Length, text.Length);
            result.Append(text);
        }

        return result.ToString();
    }

    private bool Compare(CompareExpression compare, Scope scope)
    {
        object? left = Evaluate(compare.First, scope);
        foreach ((string symbol, Expression operand) in compare.Rest)
        {
            object? right = Evaluate(operand, scope);
            Line = compare.Line;
            if (!Tests.Compare(symbol, left, right, _budget))
            {
                return false;
            }

            left = right;
        }

        return true;
    }

    private object? Call(CallExpression call, Scope scope, Macro? caller)
    {
        object? target = Evaluate(call.Target, scope);
        Arguments arguments = Collect(call.Arguments, (target as Function)?.Name ?? string.Empty, scope, caller);
        Line = call.Line;
        return Call(target, arguments);
    }

    private static object? Call(object? target, Arguments arguments)
    {
        switch (target)
        {
            case Function function:
                return function.Call(arguments);
            case Macro macro:
                return macro.Call(arguments);
            case LoopContext loop:
                object? items = arguments.Required(0, "iterable");
                arguments.Done(1);
                return loop.Recurse(items);
            case Undefined undefined:
                throw undefined.Error();
            default:
                throw PythonError.Type($"'{PythonText.TypeName(target)}' object is not callable");
        }
    }

    /// <summary>A chain of filters; the innermost without an input of its own takes <paramref name="block"/>.</summary>
    private object? ApplyFilters(Expression expression, object? block, Scope scope)
    {
        var filter = (FilterExpression)expression;
        object? input = filter.Input is null ? block : filter.Input is FilterExpression inner ? ApplyFilters(inner, block, scope) : Evaluate(filter.Input, scope);
        Line = filter.Line;
        _budget.Step();
        return Filters.Apply(filter.Name, input, Collect(filter.Arguments, filter.Name, scope), _budget);
    }

    private Arguments Collect(ArgumentList list, string function, Scope scope, Macro? caller = null)
    {
        List<object?> positional = list.Positional.Select(argument => Evaluate(argument, scope)).ToList();
        List<KeyValuePair<string, object?>> keywords = list.Keywords.Select(keyword => KeyValuePair.Create(keyword.Name, Evaluate(keyword.Value, scope))).ToList();
        if (list.RestPositional is not null)
        {
            positional.AddRange(PythonOperators.ToList(Evaluate(list.RestPositional, scope), _budget));
        }

        if (list.RestKeywords is not null)
        {
            object? rest = Evaluate(list.RestKeywords, scope);
            foreach ((object? key, object? value) in rest as PythonDict ?? throw (rest as Undefined)?.Error() ?? PythonError.Type($"argument after ** must be a mapping, not {PythonText.TypeName(rest)}"))
            {
                keywords.Add(KeyValuePair.Create(key as string ?? throw PythonError.Type("keywords must be strings"), value));
            }
        }

        if (caller is not null)
        {
            keywords.Add(KeyValuePair.Create<string, object?>("caller", caller));
        }

        return new Arguments(function, positional, keywords);
    }
}

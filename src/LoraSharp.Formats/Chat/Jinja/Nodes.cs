namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>A piece of a parsed template.</summary>
/// <param name="Line">Where it stands, from 1.</param>
internal abstract record Node(int Line);

internal abstract record Expression(int Line) : Node(Line);

internal sealed record TextExpression(string Text, int Line) : Expression(Line);

internal sealed record ConstantExpression(object? Value, int Line) : Expression(Line);

internal sealed record NameExpression(string Name, int Line) : Expression(Line);

/// <summary><c>ns.attribute</c> on the left of an assignment.</summary>
internal sealed record NamespaceExpression(string Name, string Attribute, int Line) : Expression(Line);

internal sealed record TupleExpression(IReadOnlyList<Expression> Items, int Line) : Expression(Line);

internal sealed record ListExpression(IReadOnlyList<Expression> Items, int Line) : Expression(Line);

internal sealed record DictExpression(IReadOnlyList<(Expression Key, Expression Value)> Items, int Line) : Expression(Line);

internal sealed record ConditionalExpression(Expression Test, Expression Then, Expression? Else, int Line) : Expression(Line);

internal sealed record LogicalExpression(bool IsAnd, Expression Left, Expression Right, int Line) : Expression(Line);

internal sealed record NotExpression(Expression Operand, int Line) : Expression(Line);

internal sealed record UnaryExpression(bool IsMinus, Expression Operand, int Line) : Expression(Line);

internal sealed record BinaryExpression(string Operator, Expression Left, Expression Right, int Line) : Expression(Line);

internal sealed record CompareExpression(Expression First, IReadOnlyList<(string Operator, Expression Operand)> Rest, int Line) : Expression(Line);

internal sealed record ConcatExpression(IReadOnlyList<Expression> Items, int Line) : Expression(Line);

internal sealed record AttributeExpression(Expression Target, string Name, int Line) : Expression(Line);

internal sealed record ItemExpression(Expression Target, Expression Argument, int Line) : Expression(Line);

internal sealed record SliceExpression(Expression? Start, Expression? Stop, Expression? Step, int Line) : Expression(Line);

internal sealed record ArgumentList(IReadOnlyList<Expression> Positional, IReadOnlyList<(string Name, Expression Value)> Keywords, Expression? RestPositional, Expression? RestKeywords)
{
    public static readonly ArgumentList Empty = new([], [], null, null);
}

internal sealed record CallExpression(Expression Target, ArgumentList Arguments, int Line) : Expression(Line);

/// <summary>A filter; without input it applies to the body of a block.</summary>
internal sealed record FilterExpression(Expression? Input, string Name, ArgumentList Arguments, int Line) : Expression(Line);

internal sealed record TestExpression(Expression Input, string Name, ArgumentList Arguments, int Line) : Expression(Line);

internal abstract record Statement(int Line) : Node(Line);

internal sealed record OutputStatement(IReadOnlyList<Expression> Parts, int Line) : Statement(Line);

internal sealed record AssignStatement(Expression Target, Expression Value, int Line) : Statement(Line);

internal sealed record AssignBlockStatement(Expression Target, Expression? Filter, IReadOnlyList<Statement> Body, int Line) : Statement(Line);

internal sealed record ForStatement(Expression Target, Expression Iterable, Expression? Condition, bool Recursive, IReadOnlyList<Statement> Body, IReadOnlyList<Statement> Else, int Line) : Statement(Line);

internal sealed record IfStatement(IReadOnlyList<(Expression Test, IReadOnlyList<Statement> Body)> Branches, IReadOnlyList<Statement> Else, int Line) : Statement(Line);

internal sealed record WithStatement(IReadOnlyList<(Expression Target, Expression Value)> Bindings, IReadOnlyList<Statement> Body, int Line) : Statement(Line);

/// <summary>Parameters and body of a macro or a call block.</summary>
/// <param name="Name">Null for a call block.</param>
/// <param name="Parameters">Their names.</param>
/// <param name="Defaults">Defaults of the last parameters.</param>
/// <param name="Body">What it renders.</param>
/// <param name="UsedNames">Names read inside: <c>varargs</c>, <c>kwargs</c> and <c>caller</c> are accepted only where they are used.</param>
internal sealed record MacroDefinition(string? Name, IReadOnlyList<string> Parameters, IReadOnlyList<Expression> Defaults, IReadOnlyList<Statement> Body, IReadOnlySet<string> UsedNames);

internal sealed record MacroStatement(MacroDefinition Macro, int Line) : Statement(Line);

internal sealed record CallBlockStatement(CallExpression Call, MacroDefinition Caller, int Line) : Statement(Line);

internal sealed record FilterBlockStatement(Expression Filter, IReadOnlyList<Statement> Body, int Line) : Statement(Line);

/// <summary>What the assistant says: transformers' extension, which marks tokens for the loss.</summary>
internal sealed record GenerationStatement(IReadOnlyList<Statement> Body, int Line) : Statement(Line);

/// <summary>A block, rendered where it stands: there is no inheritance in a chat template.</summary>
internal sealed record ScopeStatement(IReadOnlyList<Statement> Body, int Line) : Statement(Line);

internal sealed record BreakStatement(int Line) : Statement(Line);

internal sealed record ContinueStatement(int Line) : Statement(Line);

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Tokens to a tree: the statements. The grammar is that of the Jinja documentation's "Template Designer".</summary>
internal sealed partial class Parser
{
    private readonly List<Token> _tokens;
    private readonly List<string> _openTags = [];
    private readonly List<string[]> _wanted = [];
    private readonly Stack<HashSet<string>> _macroNames = new();
    private int _at;
    private readonly List<SyntaxError> _unknown = [];
    private int _loops;
    private int _branches;

    private Parser(List<Token> tokens) => _tokens = tokens;

    private Token Current => _tokens[_at];

    private Token Ahead => _tokens[Math.Min(_at + 1, _tokens.Count - 1)];

    public static IReadOnlyList<Statement> Parse(string source)
    {
        var parser = new Parser(Lexer.Tokenize(source));
        List<Statement> statements = parser.Statements(null);
        return parser._unknown.Count > 0 ? throw parser._unknown[0] : statements;
    }

    private List<Statement> Statements(string[]? endTags)
    {
        CheckDepth();
        var body = new List<Statement>();
        var output = new List<Expression>();
        if (endTags is not null)
        {
            _wanted.Add(endTags);
        }

        while (Current.Kind != TokenKind.End)
        {
            Token token = Next();
            if (token.Kind == TokenKind.Data)
            {
                output.Add(new TextExpression(token.Text, token.Line));
            }
            else if (token.Kind == TokenKind.VariableBegin)
            {
                output.Add(TupleOrExpression());
                Expect(TokenKind.VariableEnd, "end of print statement");
            }
            else
            {
                Flush();
                if (endTags is not null && Current.Kind == TokenKind.Name && endTags.Contains(Current.Text))
                {
                    _wanted.RemoveAt(_wanted.Count - 1);
                    return body;
                }

                if (ParseStatement() is { } statement)
                {
                    body.Add(statement);
                }

                Expect(TokenKind.BlockEnd, "end of statement block");
            }
        }

        Flush();
        if (endTags is not null)
        {
            throw UnknownTag(null, Current.Line);
        }

        return body;

        void Flush()
        {
            if (output.Count > 0)
            {
                body.Add(new OutputStatement(output.ToArray(), output[0].Line));
                output.Clear();
            }
        }
    }

    /// <summary>The body of a block up to one of its end tags, which is left as the current token.</summary>
    private List<Statement> Body(params string[] endTags)
    {
        SkipOperator(":");
        Expect(TokenKind.BlockEnd, "end of statement block");
        return Statements(endTags);
    }

    private List<Statement> BodyTo(string endTag)
    {
        List<Statement> body = Body(endTag);
        Next();
        return body;
    }

    private Statement? ParseStatement()
    {
        Token token = Current;
        if (token.Kind != TokenKind.Name)
        {
            throw new SyntaxError("tag name expected", token.Line);
        }

        _openTags.Add(token.Text);
        Statement? statement = token.Text switch
        {
            "set" => ParseSet(),
            "for" => ParseFor(),
            "if" => ParseIf(),
            "with" => ParseWith(),
            "macro" => ParseMacro(),
            "call" => ParseCallBlock(),
            "filter" => ParseFilterBlock(),
            "print" => ParsePrint(),
            "generation" => ParseGeneration(),
            "block" => ParseBlock(),
            "autoescape" => ParseAutoescape(),
            "break" or "continue" => ParseLoopControl(),
            "include" or "import" or "from" or "extends" => throw new SyntaxError($"'{token.Text}' needs other templates, and a chat template has none", token.Line),
            _ => throw Unknown(),
        };
        _openTags.RemoveAt(_openTags.Count - 1);
        return statement;

        SyntaxError Unknown()
        {
            _openTags.RemoveAt(_openTags.Count - 1);
            return UnknownTag(token.Text, token.Line);
        }
    }

    private Statement ParseSet()
    {
        int line = Next().Line;
        Expression target = AssignmentTarget();
        if (SkipOperator("="))
        {
            return new AssignStatement(target, TupleOrExpression(), line);
        }

        Expression? filter = Current.IsOperator("|") ? Filters(null) : null;
        return new AssignBlockStatement(target, filter, BodyTo("endset"), line);
    }

    private ForStatement ParseFor()
    {
        int line = Next().Line;
        Expression target = SimpleTarget(endName: "in");
        ExpectName("in");
        Expression iterable = TupleOrExpression(conditional: false, endName: "recursive");
        Expression? condition = SkipName("if") ? ParseExpression() : null;
        bool recursive = SkipName("recursive");
        int branches = _branches;
        _branches = 0;
        _loops++;
        List<Statement> body = Body("endfor", "else");
        _loops--;
        List<Statement> otherwise = Next().Text == "endfor" ? [] : BodyTo("endfor");
        _branches = branches;
        return new ForStatement(target, iterable, condition, recursive, body, otherwise, line);
    }

    private IfStatement ParseIf()
    {
        int line = Next().Line;
        var branches = new List<(Expression, IReadOnlyList<Statement>)>();
        List<Statement> otherwise = [];
        _branches++;
        while (true)
        {
            Expression test = TupleOrExpression(conditional: false);
            branches.Add((test, Body("elif", "else", "endif")));
            string tag = Next().Text;
            if (tag == "else")
            {
                otherwise = BodyTo("endif");
            }

            if (tag != "elif")
            {
                break;
            }
        }

        _branches--;
        return new IfStatement(branches, otherwise, line);
    }

    private WithStatement ParseWith()
    {
        int line = Next().Line;
        var bindings = new List<(Expression, Expression)>();
        while (Current.Kind != TokenKind.BlockEnd)
        {
            if (bindings.Count > 0)
            {
                ExpectOperator(",");
            }

            Expression target = SimpleTarget(endName: null);
            ExpectOperator("=");
            bindings.Add((target, ParseExpression()));
        }

        return new WithStatement(bindings, BodyTo("endwith"), line);
    }

    private MacroStatement ParseMacro()
    {
        int line = Next().Line;
        string name = Name(ExpectKind(TokenKind.Name, "name"));
        ExpectOperator("(");
        return new MacroStatement(Definition(name), line);
    }

    private CallBlockStatement ParseCallBlock()
    {
        int line = Next().Line;
        _macroNames.Push([]);
        (List<string> names, List<Expression> defaults) = SkipOperator("(") ? Signature() : ([], []);
        if (ParseExpression() is not CallExpression call)
        {
            throw new SyntaxError("expected call", line);
        }

        List<Statement> body = MacroBody("endcall");
        return new CallBlockStatement(call, new MacroDefinition(null, names, defaults, body, PopNames()), line);
    }

    private MacroDefinition Definition(string name)
    {
        _macroNames.Push([]);
        (List<string> names, List<Expression> defaults) = Signature();
        List<Statement> body = MacroBody("endmacro");
        return new MacroDefinition(name, names, defaults, body, PopNames());
    }

    private List<Statement> MacroBody(string endTag)
    {
        (int loops, int branches) = (_loops, _branches);
        (_loops, _branches) = (0, 0);
        List<Statement> body = BodyTo(endTag);
        (_loops, _branches) = (loops, branches);
        return body;
    }

    private HashSet<string> PopNames()
    {
        HashSet<string> names = _macroNames.Pop();
        if (_macroNames.TryPeek(out HashSet<string>? outer))
        {
            outer.UnionWith(names);
        }

        return names;
    }

    private (List<string> Names, List<Expression> Defaults) Signature()
    {
        var names = new List<string>();
        var defaults = new List<Expression>();
        while (!Current.IsOperator(")"))
        {
            if (names.Count > 0)
            {
                ExpectOperator(",");
            }

            names.Add(Name(ExpectKind(TokenKind.Name, "name")));
            if (SkipOperator("="))
            {
                defaults.Add(ParseExpression());
            }
            else if (defaults.Count > 0)
            {
                throw new SyntaxError("non-default argument follows default argument", Current.Line);
            }
        }

        Next();
        return (names, defaults);
    }

    private FilterBlockStatement ParseFilterBlock()
    {
        int line = Next().Line;
        Expression filter = Filters(null, startInline: true)!;
        return new FilterBlockStatement(filter, BodyTo("endfilter"), line);
    }

    private OutputStatement ParsePrint()
    {
        int line = Next().Line;
        var parts = new List<Expression>();
        while (Current.Kind != TokenKind.BlockEnd)
        {
            if (parts.Count > 0)
            {
                ExpectOperator(",");
            }

            parts.Add(ParseExpression());
        }

        return new OutputStatement(parts, line);
    }

    private GenerationStatement ParseGeneration()
    {
        int line = Next().Line;
        return new GenerationStatement(MacroBody("endgeneration"), line);
    }

    private ScopeStatement ParseBlock()
    {
        int line = Next().Line;
        string name = ExpectKind(TokenKind.Name, "name").Text;
        SkipName("scoped");
        SkipName("required");
        List<Statement> body = MacroBody("endblock");
        SkipName(name);
        return new ScopeStatement(body, line);
    }

    private ScopeStatement ParseAutoescape()
    {
        int line = Next().Line;
        if (ParseExpression() is not ConstantExpression { Value: false })
        {
            throw new SyntaxError("'autoescape' is only supported with false: a chat is no HTML", line);
        }

        return new ScopeStatement(BodyTo("endautoescape"), line);
    }

    private Statement ParseLoopControl()
    {
        Token token = Next();
        return _loops == 0
            ? throw new SyntaxError($"'{token.Text}' outside loop", token.Line)
            : token.Text == "break" ? new BreakStatement(token.Line) : new ContinueStatement(token.Line);
    }

    private Expression AssignmentTarget()
    {
        if (Ahead.IsOperator("."))
        {
            Token name = ExpectKind(TokenKind.Name, "name");
            Next();
            MacroReads(name.Text);
            return new NamespaceExpression(name.Text, ExpectKind(TokenKind.Name, "name").Text, name.Line);
        }

        return SimpleTarget(endName: null);
    }

    // Names and tuples of names; namespace attributes are allowed inside tuples too (Jinja 3.1.5).
    private Expression SimpleTarget(string? endName)
    {
        int line = Current.Line;
        var items = new List<Expression>();
        bool isTuple = false;
        while (true)
        {
            if (Current.Kind is TokenKind.VariableEnd or TokenKind.BlockEnd || Current.IsOperator(")") || Current.IsOperator("=") || (endName is not null && Current.IsName(endName)))
            {
                break;
            }

            items.Add(TargetItem());
            if (!SkipOperator(","))
            {
                break;
            }

            isTuple = true;
        }

        return items.Count == 0
            ? throw new SyntaxError($"Expected an expression, got {PythonText.Repr(Current.Description)}", line)
            : isTuple ? new TupleExpression(items, line) : items[0];
    }

    private Expression TargetItem()
    {
        CheckDepth();
        Token token = Next();
        if (token.IsOperator("("))
        {
            Expression inner = SimpleTarget(endName: null);
            ExpectOperator(")");
            return inner;
        }

        if (token.Kind != TokenKind.Name)
        {
            throw new SyntaxError(token.Kind is TokenKind.String or TokenKind.Integer or TokenKind.Float ? "can't assign to 'const'" : $"unexpected {PythonText.Repr(token.Description)}", token.Line);
        }

        if (Current.IsOperator("."))
        {
            Next();
            MacroReads(token.Text);
            return new NamespaceExpression(token.Text, ExpectKind(TokenKind.Name, "name").Text, token.Line);
        }

        return new NameExpression(Name(token), token.Line);
    }

    private static string Name(Token token) => token.Text is "true" or "false" or "none" or "True" or "False" or "None"
        ? throw new SyntaxError("can't assign to 'const'", token.Line)
        : token.Text;
}

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Tokens to a tree: the expressions, lowest precedence first, and what the parser needs to walk the tokens.</summary>
internal sealed partial class Parser
{
    private Expression ParseExpression(bool conditional = true)
    {
        CheckDepth();
        if (!conditional)
        {
            return Or();
        }

        int line = Current.Line;
        int unknown = _unknown.Count;
        Expression value = Or();
        while (SkipName("if"))
        {
            Expression test = Or();
            Expression? otherwise = SkipName("else") ? ParseExpression() : null;
            // A filter that there is not fails only where it is used, when that is under a condition.
            _unknown.RemoveRange(unknown, _unknown.Count - unknown);
            value = new ConditionalExpression(test, value, otherwise, line);
            line = Current.Line;
        }

        return value;
    }

    private Expression TupleOrExpression(bool conditional = true, string? endName = null, bool inParentheses = false)
    {
        int line = Current.Line;
        var items = new List<Expression>();
        bool isTuple = false;
        while (true)
        {
            if (Current.Kind is TokenKind.VariableEnd or TokenKind.BlockEnd || Current.IsOperator(")") || (endName is not null && Current.IsName(endName)))
            {
                break;
            }

            items.Add(ParseExpression(conditional));
            if (!SkipOperator(","))
            {
                break;
            }

            isTuple = true;
        }

        if (isTuple || (items.Count == 0 && inParentheses))
        {
            return new TupleExpression(items, line);
        }

        return items.Count == 1 ? items[0] : throw new SyntaxError($"Expected an expression, got {PythonText.Repr(Current.Description)}", Current.Line);
    }

    private Expression Or()
    {
        Expression left = And();
        while (Current.IsName("or"))
        {
            int line = Next().Line;
            left = new LogicalExpression(false, left, And(), line);
        }

        return left;
    }

    private Expression And()
    {
        Expression left = Not();
        while (Current.IsName("and"))
        {
            int line = Next().Line;
            left = new LogicalExpression(true, left, Not(), line);
        }

        return left;
    }

    private Expression Not()
    {
        CheckDepth();
        return Current.IsName("not") ? new NotExpression(NextThen(Not), Current.Line) : Compare();
    }

    private Expression NextThen(Func<Expression> parse)
    {
        Next();
        return parse();
    }

    private Expression Compare()
    {
        int line = Current.Line;
        Expression first = Sum();
        List<(string, Expression)>? rest = null;
        while (true)
        {
            string? symbol = null;
            if (Current.Kind == TokenKind.Operator && Current.Text is "==" or "!=" or "<" or "<=" or ">" or ">=")
            {
                symbol = Next().Text;
            }
            else if (SkipName("in"))
            {
                symbol = "in";
            }
            else if (Current.IsName("not") && Ahead.IsName("in"))
            {
                Next();
                Next();
                symbol = "not in";
            }

            if (symbol is null)
            {
                return rest is null ? first : new CompareExpression(first, rest, line);
            }

            (rest ??= []).Add((symbol, Sum()));
        }
    }

    private Expression Sum() => LeftToRight(Concat, "+", "-");

    private Expression Concat()
    {
        int line = Current.Line;
        Expression first = Product();
        if (!Current.IsOperator("~"))
        {
            return first;
        }

        var items = new List<Expression> { first };
        while (SkipOperator("~"))
        {
            items.Add(Product());
        }

        return new ConcatExpression(items, line);
    }

    private Expression Product() => LeftToRight(Power, "*", "/", "//", "%");

    // Left to right, unlike Python: Jinja's parser loops here.
    private Expression Power() => LeftToRight(() => Unary(), "**");

    private Expression LeftToRight(Func<Expression> operand, params ReadOnlySpan<string> symbols)
    {
        Expression left = operand();
        while (Current.Kind == TokenKind.Operator && symbols.Contains(Current.Text))
        {
            Token symbol = Next();
            left = new BinaryExpression(symbol.Text, left, operand(), symbol.Line);
        }

        return left;
    }

    private Expression Unary(bool withFilter = true)
    {
        CheckDepth();
        int line = Current.Line;
        Expression value = Current.IsOperator("-") || Current.IsOperator("+")
            ? new UnaryExpression(Next().Text == "-", Unary(withFilter: false), line)
            : Primary();
        value = Postfix(value);
        return withFilter ? FiltersAndTests(value) : value;
    }

    private Expression Primary()
    {
        Token token = Next();
        switch (token.Kind)
        {
            case TokenKind.Name:
                switch (token.Text)
                {
                    case "true" or "True":
                        return new ConstantExpression(true, token.Line);
                    case "false" or "False":
                        return new ConstantExpression(false, token.Line);
                    case "none" or "None":
                        return new ConstantExpression(null, token.Line);
                    default:
                        MacroReads(token.Text);
                        return new NameExpression(token.Text, token.Line);
                }

            case TokenKind.String:
                string text = token.Text;
                while (Current.Kind == TokenKind.String)
                {
                    text += Next().Text;
                }

                return new ConstantExpression(text, token.Line);
            case TokenKind.Integer or TokenKind.Float:
                return new ConstantExpression(token.Value, token.Line);
            case TokenKind.Operator when token.Text == "(":
                Expression inner = TupleOrExpression(inParentheses: true);
                ExpectOperator(")");
                return inner;
            case TokenKind.Operator when token.Text == "[":
                return new ListExpression(Sequence("]", () => ParseExpression()), token.Line);
            case TokenKind.Operator when token.Text == "{":
                return new DictExpression(Sequence("}", Pair), token.Line);
            default:
                throw new SyntaxError($"unexpected {PythonText.Repr(token.Description)}", token.Line);
        }
    }

    private (Expression, Expression) Pair()
    {
        Expression key = ParseExpression();
        ExpectOperator(":");
        return (key, ParseExpression());
    }

    private List<T> Sequence<T>(string end, Func<T> item)
    {
        var items = new List<T>();
        while (!Current.IsOperator(end))
        {
            if (items.Count > 0)
            {
                ExpectOperator(",");
                if (Current.IsOperator(end))
                {
                    break;
                }
            }

            items.Add(item());
        }

        Next();
        return items;
    }

    private Expression Postfix(Expression value)
    {
        while (Current.Kind == TokenKind.Operator)
        {
            switch (Current.Text)
            {
                case ".":
                    value = DotAccess(value);
                    break;
                case "[":
                    int line = Next().Line;
                    List<Expression> items = Sequence("]", Subscript);
                    value = new ItemExpression(value, items.Count == 1 ? items[0] : new TupleExpression(items, line), line);
                    break;
                case "(":
                    value = Call(value);
                    break;
                default:
                    return value;
            }
        }

        return value;
    }

    private Expression DotAccess(Expression value)
    {
        int line = Next().Line;
        Token name = Next();
        return name.Kind switch
        {
            TokenKind.Name => new AttributeExpression(value, name.Text, line),
            TokenKind.Integer => new ItemExpression(value, new ConstantExpression(name.Value, name.Line), line),
            _ => throw new SyntaxError("expected name or number", name.Line),
        };
    }

    private Expression Subscript()
    {
        int line = Current.Line;
        Expression? start = null;
        if (!Current.IsOperator(":"))
        {
            start = ParseExpression();
            if (!Current.IsOperator(":"))
            {
                return start;
            }
        }

        Next();
        Expression? stop = Part();
        Expression? step = SkipOperator(":") ? Part() : null;
        return new SliceExpression(start, stop, step, line);

        Expression? Part() => Current.Kind == TokenKind.Operator && Current.Text is "]" or "," or ":" ? null : ParseExpression();
    }

    private CallExpression Call(Expression target)
    {
        int line = Current.Line;
        return new CallExpression(target, Arguments(), line);
    }

    private ArgumentList Arguments()
    {
        int line = ExpectOperator("(").Line;
        var positional = new List<Expression>();
        var keywords = new List<(string, Expression)>();
        Expression? restPositional = null;
        Expression? restKeywords = null;
        bool first = true;
        while (!Current.IsOperator(")"))
        {
            if (!first)
            {
                ExpectOperator(",");
                if (Current.IsOperator(")"))
                {
                    break;
                }
            }

            first = false;
            if (SkipOperator("*"))
            {
                Ensure(restPositional is null && restKeywords is null);
                restPositional = ParseExpression();
            }
            else if (SkipOperator("**"))
            {
                Ensure(restKeywords is null);
                restKeywords = ParseExpression();
            }
            else if (Current.Kind == TokenKind.Name && Ahead.IsOperator("="))
            {
                Ensure(restKeywords is null);
                string name = Next().Text;
                Next();
                keywords.Add((name, ParseExpression()));
            }
            else
            {
                Ensure(restPositional is null && restKeywords is null && keywords.Count == 0);
                positional.Add(ParseExpression());
            }
        }

        Next();
        return new ArgumentList(positional, keywords, restPositional, restKeywords);

        void Ensure(bool valid)
        {
            if (!valid)
            {
                throw new SyntaxError("invalid syntax for function call expression", line);
            }
        }
    }

    private Expression FiltersAndTests(Expression value)
    {
        while (true)
        {
            if (Current.IsOperator("|"))
            {
                value = Filters(value)!;
            }
            else if (Current.IsName("is"))
            {
                value = Test(value);
            }
            else if (Current.IsOperator("("))
            {
                value = Call(value);
            }
            else
            {
                return value;
            }
        }
    }

    private Expression? Filters(Expression? value, bool startInline = false)
    {
        while (startInline || Current.IsOperator("|"))
        {
            if (!startInline)
            {
                Next();
            }

            startInline = false;
            int line = Current.Line;
            string name = DottedName();
            if (!Jinja.Filters.Exists(name) && _branches == 0)
            {
                _unknown.Add(new SyntaxError($"No filter named {PythonText.Repr(name)}.", line));
            }

            value = new FilterExpression(value, name, Current.IsOperator("(") ? Arguments() : ArgumentList.Empty, line);
        }

        return value;
    }

    private Expression Test(Expression value)
    {
        int line = Next().Line;
        bool negated = SkipName("not");
        string name = DottedName();
        ArgumentList arguments = ArgumentList.Empty;
        if (Current.IsOperator("("))
        {
            arguments = Arguments();
        }
        else if (Current.Kind is TokenKind.Name or TokenKind.String or TokenKind.Integer or TokenKind.Float || Current.IsOperator("[") || Current.IsOperator("{"))
        {
            if (Current.IsName("is"))
            {
                throw new SyntaxError("You cannot chain multiple tests with is", Current.Line);
            }

            if (!(Current.IsName("else") || Current.IsName("or") || Current.IsName("and")))
            {
                arguments = new ArgumentList([Postfix(Primary())], [], null, null);
            }
        }

        if (!Tests.Exists(name) && _branches == 0)
        {
            _unknown.Add(new SyntaxError($"No test named {PythonText.Repr(name)}.", line));
        }

        Expression test = new TestExpression(value, name, arguments, line);
        return negated ? new NotExpression(test, line) : test;
    }

    private string DottedName()
    {
        string name = ExpectKind(TokenKind.Name, "name").Text;
        while (SkipOperator("."))
        {
            name += "." + ExpectKind(TokenKind.Name, "name").Text;
        }

        return name;
    }

    private void MacroReads(string name)
    {
        if (_macroNames.TryPeek(out HashSet<string>? names))
        {
            names.Add(name);
        }
    }

    private Token Next() => Current.Kind == TokenKind.End ? Current : _tokens[_at++];

    private bool SkipName(string name)
    {
        bool found = Current.IsName(name);
        _at += found ? 1 : 0;
        return found;
    }

    private bool SkipOperator(string symbol)
    {
        bool found = Current.IsOperator(symbol);
        _at += found ? 1 : 0;
        return found;
    }

    private void ExpectName(string name)
    {
        if (!SkipName(name))
        {
            throw Unexpected(name);
        }
    }

    private Token ExpectOperator(string symbol)
    {
        Token token = Current;
        return SkipOperator(symbol) ? token : throw Unexpected(symbol);
    }

    private void Expect(TokenKind kind, string description) => ExpectKind(kind, description);

    private Token ExpectKind(TokenKind kind, string description) => Current.Kind == kind ? Next() : throw Unexpected(description);

    private SyntaxError Unexpected(string expected) => new(
        Current.Kind == TokenKind.End
            ? $"unexpected end of template, expected {PythonText.Repr(expected)}."
            : $"expected token {PythonText.Repr(expected)}, got {PythonText.Repr(Current.Description)}",
        Current.Line);

    private SyntaxError UnknownTag(string? name, int line)
    {
        string message = name is null ? "Unexpected end of template." : $"Encountered unknown tag {PythonText.Repr(name)}.";
        if (_wanted.Count > 0)
        {
            string looking = string.Join(" or ", _wanted[^1].Select(tag => PythonText.Repr(tag)));
            message += name is not null && _wanted.Any(tags => tags.Contains(name))
                ? $" You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for {looking}."
                : $" Jinja was looking for the following tags: {looking}.";
        }

        if (_openTags.Count > 0)
        {
            message += $" The innermost block that needs to be closed is {PythonText.Repr(_openTags[^1])}.";
        }

        return new SyntaxError(message, line);
    }

    private void CheckDepth()
    {
        if (!System.Runtime.CompilerServices.RuntimeHelpers.TryEnsureSufficientExecutionStack())
        {
            throw new SyntaxError("the template is nested too deeply", Current.Line);
        }
    }
}

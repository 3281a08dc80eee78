namespace LoraSharp.Formats.Tokenization.Patterns;

internal sealed class RegexPattern(string expression, string source) : TextPattern
{
    public override void FindMatches(string text, int start, int end, List<MatchSpan> output) =>
        throw new LoraSharpException($"{source}: the expression {expression} is not supported yet.");
}

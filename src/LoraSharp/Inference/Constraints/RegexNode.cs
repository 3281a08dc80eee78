using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Inference.Constraints;

/// <summary>A regular expression, taken apart.</summary>
internal abstract record RegexNode
{
    /// <summary>One character of a set.</summary>
    /// <param name="Set">The set.</param>
    /// <param name="WhenRepeated">
    /// The set when it is repeated without end, if that is another: engines over UTF-16 see a character beyond U+FFFF as two,
    /// which makes no difference only where any number will do.
    /// </param>
    public sealed record OneOf(CodePointSet Set, CodePointSet? WhenRepeated = null) : RegexNode;

    /// <summary>One after another; none: the empty text.</summary>
    public sealed record Sequence(IReadOnlyList<RegexNode> Parts) : RegexNode;

    /// <summary>Any of them.</summary>
    public sealed record Choice(IReadOnlyList<RegexNode> Options) : RegexNode;

    /// <summary>Repeated; <paramref name="Most"/> null: without end.</summary>
    public sealed record Repeat(RegexNode Part, int Least, int? Most) : RegexNode;

    /// <summary>The beginning of the text.</summary>
    public sealed record Start : RegexNode;

    /// <summary>The end of the text.</summary>
    public sealed record End : RegexNode;
}

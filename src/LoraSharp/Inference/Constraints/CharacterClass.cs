using System.Globalization;
using System.Text;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Inference.Constraints;

/// <summary>
/// A set of characters of an expression, by its narrowest and its widest reading among the dialects. A complement of the
/// one is the other's, so that what is generated matches under each.
/// </summary>
internal sealed record CharacterClass(CodePointSet Narrow, CodePointSet Wide)
{
    private const int HighSurrogate = 0xD800;
    private static readonly CodePointSet Basic = CodePointSet.Of((0, 0xFFFF));
    private static readonly CodePointSet Lines = CodePointSet.Of(('\n', '\n'), ('\r', '\r'), (0x2028, 0x2029));

    /// <summary>Every character.</summary>
    public static CodePointSet Any { get; } = CodePointSet.Of((0, CodePointSet.Last));

    /// <summary>Every character that ends no line, in .NET or ECMA-262.</summary>
    public static CodePointSet Dot { get; } = Lines.Complement();

    /// <summary>The only member; null when there are others or none.</summary>
    public int? Single => Narrow.Ranges is [(int start, int end)] && start == end && ReferenceEquals(Narrow, Wide) ? start : null;

    /// <summary>A set that all dialects read alike.</summary>
    public static CharacterClass Exactly(CodePointSet set) => new(set, set);

    /// <summary>The members of a Unicode property; engines over UTF-16 find none beyond U+FFFF.</summary>
    public static CharacterClass OfProperty(CodePointSet set) => new(set.Intersect(Basic), set);

    /// <summary>A set that is not made of given characters.</summary>
    public static RegexNode.OneOf AsNode(CodePointSet set) => new(set.Intersect(Basic), set.Contains(HighSurrogate) ? set : null);

    /// <summary>The set with its members in upper and lower case.</summary>
    public static CodePointSet FoldCase(CodePointSet set) => CodePointSet.Of(set.Ranges.Concat(set.Ranges.Where(r => r.End - r.Start < 4096)
        .SelectMany(r => Enumerable.Range(r.Start, r.End - r.Start + 1)).Where(Rune.IsValid).Select(p => new Rune(p))
        .SelectMany(r => (int[])[Rune.ToLowerInvariant(r).Value, Rune.ToUpperInvariant(r).Value]).Select(p => (p, p))));

    /// <summary>\d, \w, \s and their complements; null for any other letter.</summary>
    public static CharacterClass? Shorthand(char letter) => letter switch
    {
        'd' => Digit,
        'w' => Word,
        's' => Space,
        'D' => Digit.Complement(),
        'W' => Word.Complement(),
        'S' => Space.Complement(),
        _ => null,
    };

    /// <summary>What is in either.</summary>
    public CharacterClass Union(CharacterClass other) => ReferenceEquals(other.Narrow, other.Wide) && ReferenceEquals(Narrow, Wide)
        ? Exactly(Narrow.Union(other.Narrow))
        : new(Narrow.Union(other.Narrow), Wide.Union(other.Wide));

    /// <summary>What is not in it.</summary>
    public CharacterClass Complement() => new(Wide.Complement(), Narrow.Complement());

    private static CharacterClass Digit => new(CodePointSet.Of(('0', '9')), CodePointSet.OfCategories(UnicodeCategory.DecimalDigitNumber));

    private static CharacterClass Word => new(
        CodePointSet.Of(('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')),
        CodePointSet.OfCategories(
            UnicodeCategory.UppercaseLetter, UnicodeCategory.LowercaseLetter, UnicodeCategory.TitlecaseLetter, UnicodeCategory.ModifierLetter, UnicodeCategory.OtherLetter,
            UnicodeCategory.NonSpacingMark, UnicodeCategory.SpacingCombiningMark, UnicodeCategory.EnclosingMark, UnicodeCategory.DecimalDigitNumber, UnicodeCategory.ConnectorPunctuation)
            .Union(CodePointSet.Of((0x200C, 0x200D))));

    private static CharacterClass Space => new(
        CodePointSet.Of(('\t', '\r'), (' ', ' ')),
        CharacterProperties.Space.Union(CodePointSet.Of((0x180E, 0x180E), (0x200B, 0x200B), (0xFEFF, 0xFEFF))));
}

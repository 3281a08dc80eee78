using System.Globalization;
using static System.Globalization.UnicodeCategory;

namespace LoraSharp.Formats.Tokenization.Patterns;

/// <summary>What Oniguruma's \p{...}, [:...:] and shorthand classes stand for (its documentation, doc/RE, with Unicode).</summary>
internal static class CharacterProperties
{
    private static readonly UnicodeCategory[] Letters = [UppercaseLetter, LowercaseLetter, TitlecaseLetter, ModifierLetter, OtherLetter];
    private static readonly UnicodeCategory[] Marks = [NonSpacingMark, SpacingCombiningMark, EnclosingMark];
    private static readonly UnicodeCategory[] Punctuations = [ConnectorPunctuation, DashPunctuation, OpenPunctuation, ClosePunctuation, InitialQuotePunctuation, FinalQuotePunctuation, OtherPunctuation];
    private static readonly UnicodeCategory[] Symbols = [MathSymbol, CurrencySymbol, ModifierSymbol, OtherSymbol];

    private static readonly Dictionary<string, UnicodeCategory[]> ByCategory = new(StringComparer.Ordinal)
    {
        ["L"] = Letters,
        ["LETTER"] = Letters,
        ["LC"] = Letters[..3],
        ["CASEDLETTER"] = Letters[..3],
        ["LU"] = [UppercaseLetter],
        ["UPPERCASELETTER"] = [UppercaseLetter],
        ["LL"] = [LowercaseLetter],
        ["LOWERCASELETTER"] = [LowercaseLetter],
        ["LT"] = [TitlecaseLetter],
        ["TITLECASELETTER"] = [TitlecaseLetter],
        ["LM"] = [ModifierLetter],
        ["MODIFIERLETTER"] = [ModifierLetter],
        ["LO"] = [OtherLetter],
        ["OTHERLETTER"] = [OtherLetter],
        ["M"] = Marks,
        ["MARK"] = Marks,
        ["COMBININGMARK"] = Marks,
        ["MN"] = [NonSpacingMark],
        ["NONSPACINGMARK"] = [NonSpacingMark],
        ["MC"] = [SpacingCombiningMark],
        ["SPACINGMARK"] = [SpacingCombiningMark],
        ["ME"] = [EnclosingMark],
        ["ENCLOSINGMARK"] = [EnclosingMark],
        ["N"] = [DecimalDigitNumber, LetterNumber, OtherNumber],
        ["NUMBER"] = [DecimalDigitNumber, LetterNumber, OtherNumber],
        ["ND"] = [DecimalDigitNumber],
        ["DECIMALNUMBER"] = [DecimalDigitNumber],
        ["DIGIT"] = [DecimalDigitNumber],
        ["NL"] = [LetterNumber],
        ["LETTERNUMBER"] = [LetterNumber],
        ["NO"] = [OtherNumber],
        ["OTHERNUMBER"] = [OtherNumber],
        ["P"] = Punctuations,
        ["PUNCTUATION"] = Punctuations,
        ["PC"] = [ConnectorPunctuation],
        ["CONNECTORPUNCTUATION"] = [ConnectorPunctuation],
        ["PD"] = [DashPunctuation],
        ["DASHPUNCTUATION"] = [DashPunctuation],
        ["PS"] = [OpenPunctuation],
        ["OPENPUNCTUATION"] = [OpenPunctuation],
        ["PE"] = [ClosePunctuation],
        ["CLOSEPUNCTUATION"] = [ClosePunctuation],
        ["PI"] = [InitialQuotePunctuation],
        ["INITIALPUNCTUATION"] = [InitialQuotePunctuation],
        ["PF"] = [FinalQuotePunctuation],
        ["FINALPUNCTUATION"] = [FinalQuotePunctuation],
        ["PO"] = [OtherPunctuation],
        ["OTHERPUNCTUATION"] = [OtherPunctuation],
        ["S"] = Symbols,
        ["SYMBOL"] = Symbols,
        ["SM"] = [MathSymbol],
        ["MATHSYMBOL"] = [MathSymbol],
        ["SC"] = [CurrencySymbol],
        ["CURRENCYSYMBOL"] = [CurrencySymbol],
        ["SK"] = [ModifierSymbol],
        ["MODIFIERSYMBOL"] = [ModifierSymbol],
        ["SO"] = [OtherSymbol],
        ["OTHERSYMBOL"] = [OtherSymbol],
        ["Z"] = [SpaceSeparator, LineSeparator, ParagraphSeparator],
        ["SEPARATOR"] = [SpaceSeparator, LineSeparator, ParagraphSeparator],
        ["ZS"] = [SpaceSeparator],
        ["SPACESEPARATOR"] = [SpaceSeparator],
        ["ZL"] = [LineSeparator],
        ["LINESEPARATOR"] = [LineSeparator],
        ["ZP"] = [ParagraphSeparator],
        ["PARAGRAPHSEPARATOR"] = [ParagraphSeparator],
        ["C"] = [Control, Format, Surrogate, PrivateUse, OtherNotAssigned],
        ["OTHER"] = [Control, Format, Surrogate, PrivateUse, OtherNotAssigned],
        ["CC"] = [Control],
        ["CNTRL"] = [Control],
        ["CONTROL"] = [Control],
        ["CF"] = [Format],
        ["FORMAT"] = [Format],
        ["CS"] = [Surrogate],
        ["SURROGATE"] = [Surrogate],
        ["CO"] = [PrivateUse],
        ["PRIVATEUSE"] = [PrivateUse],
        ["CN"] = [OtherNotAssigned],
        ["UNASSIGNED"] = [OtherNotAssigned],
    };

    /// <summary>\s: Unicode White_Space.</summary>
    public static CodePointSet Space { get; } = CodePointSet.Of(
        (0x9, 0xD), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000));

    /// <summary>\d.</summary>
    public static CodePointSet Digit => CodePointSet.OfCategories(DecimalDigitNumber);

    /// <summary>\h: a hexadecimal digit.</summary>
    public static CodePointSet HexDigit => CodePointSet.Of(('0', '9'), ('A', 'F'), ('a', 'f'));

    /// <summary>\w: alphabetic characters, marks, decimal digits and connectors, and (below U+0100 only) ²³¹¼½¾.</summary>
    public static CodePointSet Word => Alphabetic
        .Union(CodePointSet.OfCategories([.. Marks, DecimalDigitNumber, ConnectorPunctuation]))
        .Union(CodePointSet.Of((0xB2, 0xB3), (0xB9, 0xB9), (0xBC, 0xBE)));

    /// <summary>[:punct:], which unlike \p{Punct} has the symbols too.</summary>
    public static CodePointSet PosixPunctuation => CodePointSet.OfCategories([.. Punctuations, .. Symbols]);

    private static CodePointSet Alphabetic => CodePointSet.Of(UnicodeProperties.Ranges("Alphabetic")!);

    /// <summary>The property of a name, without regard to case, blanks, dashes and underscores; null when there is none.</summary>
    public static CodePointSet? Find(string name)
    {
        string plain = string.Concat(name.Where(unit => unit is not (' ' or '_' or '-'))).ToUpperInvariant();
        if (ByCategory.TryGetValue(plain, out UnicodeCategory[]? categories))
        {
            return CodePointSet.OfCategories(categories);
        }

        return plain switch
        {
            "ANY" => CodePointSet.Of((0, CodePointSet.Last)),
            "ASCII" => CodePointSet.Of((0, 0x7F)),
            "ASSIGNED" => CodePointSet.OfCategories(OtherNotAssigned).Complement(),
            "ALPHA" => Alphabetic,
            "ALNUM" => Alphabetic.Union(Digit),
            "UPPER" => CodePointSet.Of(UnicodeProperties.Ranges("Uppercase")!),
            "LOWER" => CodePointSet.Of(UnicodeProperties.Ranges("Lowercase")!),
            "SPACE" or "WHITESPACE" => Space,
            "BLANK" => CodePointSet.OfCategories(SpaceSeparator).Union(CodePointSet.Single('\t')),
            "WORD" => Word,
            "XDIGIT" => HexDigit,
            "PUNCT" => CodePointSet.OfCategories(Punctuations),
            "GRAPH" => Space.Union(CodePointSet.OfCategories(Control, Surrogate, OtherNotAssigned)).Complement(),
            "PRINT" => CodePointSet.OfCategories(Control, Surrogate, OtherNotAssigned, LineSeparator, ParagraphSeparator).Complement(),
            _ => UnicodeProperties.Ranges(plain) is { } ranges ? CodePointSet.Of(ranges) : null,
        };
    }
}

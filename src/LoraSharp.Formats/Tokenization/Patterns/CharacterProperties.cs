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

    /// <summary>\w: letters, marks, decimal and letter numbers, connectors and other alphabetic characters.</summary>
    public static CodePointSet Word => Alphabetic.Union(CodePointSet.OfCategories([.. Marks, DecimalDigitNumber, ConnectorPunctuation]));

    private static CodePointSet Alphabetic => CodePointSet.OfCategories([.. Letters, LetterNumber])
        .Union(CodePointSet.Of((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189)));

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
            "ALPHA" or "ALPHABETIC" => Alphabetic.Union(CodePointSet.OfCategories(NonSpacingMark, SpacingCombiningMark)),
            "ALNUM" => Alphabetic.Union(CodePointSet.OfCategories(NonSpacingMark, SpacingCombiningMark, DecimalDigitNumber)),
            "UPPER" or "UPPERCASE" => CodePointSet.OfCategories(UppercaseLetter).Union(CodePointSet.Of((0x2160, 0x216F), (0x24B6, 0x24CF))),
            "LOWER" or "LOWERCASE" => CodePointSet.OfCategories(LowercaseLetter).Union(CodePointSet.Of((0xAA, 0xAA), (0xBA, 0xBA), (0x2170, 0x217F), (0x24D0, 0x24E9))),
            "SPACE" or "WHITESPACE" => Space,
            "BLANK" => CodePointSet.OfCategories(SpaceSeparator).Union(CodePointSet.Single('\t')),
            "WORD" => Word,
            "XDIGIT" => HexDigit,
            "PUNCT" => CodePointSet.OfCategories(Punctuations).Union(CodePointSet.Of(('$', '$'), ('+', '+'), ('<', '>'), ('^', '^'), ('`', '`'), ('|', '|'), ('~', '~'))),
            "GRAPH" => Space.Union(CodePointSet.OfCategories(Control, Surrogate, OtherNotAssigned)).Complement(),
            "PRINT" => CodePointSet.OfCategories(Control, Surrogate, OtherNotAssigned, LineSeparator, ParagraphSeparator).Complement(),
            _ => UnicodeScripts.Ranges(plain) is { } ranges ? CodePointSet.Of(ranges) : null,
        };
    }
}

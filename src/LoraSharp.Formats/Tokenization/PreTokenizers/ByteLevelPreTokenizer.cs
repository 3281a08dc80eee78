using System.Text;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Formats.Tokenization.PreTokenizers;

/// <summary>GPT-2's: a blank in front if asked, words by its expression, then bytes as characters.</summary>
internal sealed class ByteLevelPreTokenizer(bool addPrefixSpace, bool useExpression) : PreTokenizer
{
    private readonly PatternSplitter _words = new(BpeWordPattern.Gpt2, SplitBehavior.Isolated);

    /// <summary>What cuts the text before bytes become characters; null: nothing does.</summary>
    public SpanSplitter? Words => useExpression ? _words : null;

    public bool AddPrefixSpace => addPrefixSpace;

    /// <summary>Rewrites a text in the byte-level alphabet; each character is aligned with the code point of its byte.</summary>
    public static void ToByteLevel(AlignedText text)
    {
        var changes = new List<TextChange>(text.Text.Length);
        Span<byte> utf8 = stackalloc byte[4];
        foreach (Rune rune in text.Text.EnumerateRunes())
        {
            int count = rune.EncodeToUtf8(utf8);
            for (int i = 0; i < count; i++)
            {
                changes.Add(new TextChange(ByteLevelAlphabet.ToChar(utf8[i]), i > 0 ? 1 : 0));
            }
        }

        text.Transform(changes);
    }

    protected override void Split(AlignedText text, List<Piece> output)
    {
        if (addPrefixSpace && !text.Text.StartsWith(' '))
        {
            text.Prepend(" ");
        }

        List<Piece> pieces = [new Piece(text)];
        if (useExpression)
        {
            pieces = _words.Apply(pieces);
        }

        foreach (Piece piece in pieces)
        {
            ToByteLevel(piece.Text);
        }

        output.AddRange(pieces);
    }
}

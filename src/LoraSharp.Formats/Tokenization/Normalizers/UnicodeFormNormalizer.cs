using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Tokenization.Normalizers;

/// <summary>
/// NFC, NFD, NFKC or NFKD by the runtime's tables. Works on stretches that normalize independently (a character and
/// the marks after it, a Hangul syllable), so that alignments stay as fine as that.
/// </summary>
internal sealed class UnicodeFormNormalizer(NormalizationForm form) : Normalizer
{
    // A noncharacter that the runtime's normalization throws at, though it is valid text.
    private const char Noncharacter = '\uFFFE';

    public override bool LeavesAlone(ReadOnlySpan<char> text) => System.Text.Ascii.IsValid(text) || (!text.Contains(Noncharacter) && text.IsNormalized(form));

    public override void Apply(AlignedText text)
    {
        if (LeavesAlone(text.Text))
        {
            return;
        }

        var changes = new List<TextChange>(text.Text.Length);
        string value = text.Text;
        for (int i = 0; i < value.Length;)
        {
            int end = NextBoundary(value, i);
            AddStretch(value[i..end], changes);
            i = end;
        }

        text.Transform(changes);
    }

    private void AddStretch(string stretch, List<TextChange> changes)
    {
        int leading = CodePoints.At(stretch, 0, out int width);
        if (IsInert(leading))
        {
            changes.Add(new TextChange(leading, 0));
            stretch = stretch[width..];
            if (stretch.Length == 0)
            {
                return;
            }
        }

        if (stretch.IsNormalized(form))
        {
            foreach (Rune rune in stretch.EnumerateRunes())
            {
                changes.Add(new TextChange(rune.Value, 0));
            }

            return;
        }

        int[] output = Runes(stretch.Normalize(form));
        // Each code point of the result stands for as many input code points as its decomposition uses up.
        NormalizationForm full = form is NormalizationForm.FormC or NormalizationForm.FormD ? NormalizationForm.FormD : NormalizationForm.FormKD;
        int[] sizes = [.. stretch.EnumerateRunes().Select(rune => rune.ToString().Normalize(full).EnumerateRunes().Count())];
        int source = 0, left = sizes[0];
        int first = changes.Count;
        int consumed = 0;
        foreach (int codePoint in output)
        {
            bool fresh = left == sizes[source];
            int before = source;
            int parts = Runes(char.ConvertFromUtf32(codePoint).Normalize(full)).Length;
            while (parts > 0 && source < sizes.Length)
            {
                int taken = Math.Min(parts, left);
                parts -= taken;
                left -= taken;
                if (left == 0 && source + 1 < sizes.Length)
                {
                    source++;
                    left = sizes[source];
                }
                else if (left == 0)
                {
                    break;
                }
            }

            int swallowed = Math.Max(0, source - before - 1 + (left == 0 ? 1 : 0));
            bool inserted = !fresh && consumed > 0;
            changes.Add(new TextChange(codePoint, inserted ? 1 : -Math.Min(swallowed, sizes.Length - consumed - 1)));
            consumed += inserted ? 0 : 1 + Math.Min(swallowed, sizes.Length - consumed - 1);
        }

        // What was not accounted for belongs to the last one, so that the next stretch starts where it should.
        if (consumed < sizes.Length)
        {
            int last = changes.Count - 1;
            while (last > first && changes[last].Delta > 0)
            {
                last--;
            }

            changes[last] = changes[last] with { Delta = changes[last].Delta - (sizes.Length - consumed) };
        }
    }

    /// <summary>
    /// Whether the library leaves it alone: its tables are those of Unicode 11, so what later versions decompose is as
    /// unknown to it as an unassigned code point. (Compared with it over all code points.)
    /// </summary>
    private static bool IsInert(int codePoint) => codePoint is Noncharacter or 0x32FF or (>= 0xA7F1 and <= 0xA7F4) or 0xAB69
        or (>= 0x10781 and <= 0x107BA) or 0x11938 or (>= 0x1E030 and <= 0x1E06D) or 0x1F16C or (>= 0x1FBF0 and <= 0x1FBF9);

    private static int[] Runes(string text) => [.. text.EnumerateRunes().Select(rune => rune.Value)];

    private static int NextBoundary(string text, int start)
    {
        CodePoints.At(text, start, out int width);
        int i = start + width;
        while (i < text.Length)
        {
            int codePoint = CodePoints.At(text, i, out width);
            if (!JoinsPrevious(codePoint))
            {
                break;
            }

            i += width;
        }

        return i;
    }

    // Marks may reorder or compose with what is before them; so do Hangul vowels and trailing consonants. Halfwidth
    // katakana voicing marks (letters by category) become marks under the compatibility forms.
    private static bool JoinsPrevious(int codePoint) => codePoint >= 0x300
        && (codePoint is (>= 0x1160 and <= 0x11FF) or 0xFF9E or 0xFF9F
            || CharUnicodeInfo.GetUnicodeCategory(codePoint) is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark);
}

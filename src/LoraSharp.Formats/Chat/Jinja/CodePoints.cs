namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>Texts by code points, as Python counts: a pair of surrogates is one.</summary>
internal static class CodePoints
{
    public static bool HasPairs(string text) => text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF') >= 0;

    public static int Count(string text)
    {
        int count = text.Length;
        for (int i = 0; i + 1 < text.Length; i++)
        {
            if (char.IsSurrogatePair(text[i], text[i + 1]))
            {
                count--;
                i++;
            }
        }

        return count;
    }

    public static IEnumerable<string> Split(string text)
    {
        for (int i = 0; i < text.Length; i++)
        {
            bool pair = i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]);
            yield return pair ? text.Substring(i++, 2) : text[i].ToString();
        }
    }

    /// <summary>Position in UTF-16 units to position in code points.</summary>
    public static int IndexOf(string text, int unit) => unit < 0 ? unit : Count(text[..unit]);

    /// <summary>Position in code points to position in UTF-16 units.</summary>
    public static int UnitOf(string text, long index)
    {
        if (!HasPairs(text))
        {
            return (int)Math.Min(index, text.Length);
        }

        int unit = 0;
        for (; index > 0 && unit < text.Length; index--)
        {
            unit += unit + 1 < text.Length && char.IsSurrogatePair(text[unit], text[unit + 1]) ? 2 : 1;
        }

        return unit;
    }
}

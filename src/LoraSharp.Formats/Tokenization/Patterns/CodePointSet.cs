using System.Globalization;
using System.Text;

namespace LoraSharp.Formats.Tokenization.Patterns;

/// <summary>A set of code points as sorted ranges that do not touch.</summary>
internal sealed class CodePointSet
{
    public const int Last = 0x10FFFF;

    private static readonly Lazy<CodePointSet[]> Categories = new(BuildCategories);

    private CodePointSet(List<(int Start, int End)> ranges) => Ranges = ranges;

    public IReadOnlyList<(int Start, int End)> Ranges { get; }

    public static CodePointSet Empty { get; } = new([]);

    public static CodePointSet Of(params IEnumerable<(int Start, int End)> ranges)
    {
        var merged = new List<(int Start, int End)>();
        foreach ((int start, int end) in ranges.Order())
        {
            if (merged.Count > 0 && start <= merged[^1].End + 1)
            {
                merged[^1] = (merged[^1].Start, Math.Max(end, merged[^1].End));
            }
            else
            {
                merged.Add((start, end));
            }
        }

        return new CodePointSet(merged);
    }

    public static CodePointSet Single(int codePoint) => new([(codePoint, codePoint)]);

    /// <summary>All code points of some general categories.</summary>
    public static CodePointSet OfCategories(params IEnumerable<UnicodeCategory> categories) =>
        Of(categories.SelectMany(category => Categories.Value[(int)category].Ranges));

    public CodePointSet Union(CodePointSet other) => Of(Ranges.Concat(other.Ranges));

    public CodePointSet Complement()
    {
        var ranges = new List<(int, int)>();
        int next = 0;
        foreach ((int start, int end) in Ranges)
        {
            if (start > next)
            {
                ranges.Add((next, start - 1));
            }

            next = end + 1;
        }

        if (next <= Last)
        {
            ranges.Add((next, Last));
        }

        return new CodePointSet(ranges);
    }

    public CodePointSet Intersect(CodePointSet other) => Complement().Union(other.Complement()).Complement();

    public bool Contains(int codePoint) => Ranges.Any(range => range.Start <= codePoint && codePoint <= range.End);

    /// <summary>The set with all case variants of its members.</summary>
    public CodePointSet FoldCase()
    {
        var extra = new List<(int, int)>();
        foreach ((int start, int end) in Ranges)
        {
            // A long range is a whole script or category: its variants are in it.
            for (int codePoint = start; codePoint <= end && end - start < 4096; codePoint++)
            {
                extra.AddRange(CaseVariants(codePoint).Select(variant => (variant, variant)));
            }
        }

        return Of(Ranges.Concat(extra));
    }

    /// <summary>The .NET expression of one member.</summary>
    /// <param name="astral">Whether members beyond U+FFFF are written too, as surrogate pairs.</param>
    public string ToExpression(bool astral)
    {
        var bmp = new StringBuilder();
        var pairs = new List<string>();
        foreach ((int start, int end) in Ranges)
        {
            AppendUnits(bmp, start, Math.Min(end, 0xD7FF));
            AppendUnits(bmp, Math.Max(start, 0xE000), Math.Min(end, 0xFFFF));
            if (astral && end > 0xFFFF)
            {
                AddPairs(pairs, Math.Max(start, 0x10000), end);
            }
        }

        if (bmp.Length > 0)
        {
            pairs.Insert(0, $"[{bmp}]");
        }

        return pairs.Count switch
        {
            0 => "(?!)",
            1 => pairs[0].StartsWith('[') && !pairs[0].Contains("][", StringComparison.Ordinal) ? pairs[0] : $"(?:{pairs[0]})",
            _ => $"(?:{string.Join('|', pairs)})",
        };
    }

    private static void AppendUnits(StringBuilder builder, int start, int end)
    {
        if (start > end)
        {
            return;
        }

        builder.Append(CultureInfo.InvariantCulture, $"\\u{start:X4}");
        if (end > start)
        {
            builder.Append(CultureInfo.InvariantCulture, $"-\\u{end:X4}");
        }
    }

    // Pairs of one high surrogate with a range of low ones, and whole blocks of high surrogates where the range covers them.
    private static void AddPairs(List<string> pairs, int start, int end)
    {
        while (start <= end)
        {
            int high = 0xD800 + ((start - 0x10000) >> 10);
            int blockEnd = start | 0x3FF;
            if ((start & 0x3FF) == 0 && blockEnd <= end)
            {
                int blocks = (end + 1 - start) >> 10;
                pairs.Add($"[\\u{high:X4}-\\u{high + blocks - 1:X4}][\\uDC00-\\uDFFF]");
                start += blocks << 10;
                continue;
            }

            int stop = Math.Min(end, blockEnd);
            string prefix = $"\\u{high:X4}[";
            string range = $"\\u{0xDC00 + (start & 0x3FF):X4}-\\u{0xDC00 + (stop & 0x3FF):X4}";
            if (pairs.Count > 0 && pairs[^1].StartsWith(prefix, StringComparison.Ordinal))
            {
                pairs[^1] = pairs[^1][..^1] + range + "]";
            }
            else
            {
                pairs.Add(prefix + range + "]");
            }

            start = stop + 1;
        }
    }

    private static IEnumerable<int> CaseVariants(int codePoint)
    {
        if (codePoint is >= 0xD800 and <= 0xDFFF)
        {
            yield break;
        }

        var rune = new Rune(codePoint);
        yield return Rune.ToLowerInvariant(rune).Value;
        yield return Rune.ToUpperInvariant(rune).Value;
        // Simple case foldings that are no one-to-one pairs (CaseFolding.txt, status C).
        (int Plain, int Upper, int Variant)[] more =
        [
            ('s', 'S', 0x17F), ('k', 'K', 0x212A), (0xE5, 0xC5, 0x212B), (0xDF, 0x1E9E, 0x1E9E), (0x3C9, 0x3A9, 0x2126), (0x3BC, 0x39C, 0xB5),
            (0x3B2, 0x392, 0x3D0), (0x3B5, 0x395, 0x3F5), (0x3B8, 0x398, 0x3D1), (0x3B9, 0x399, 0x1FBE), (0x3BA, 0x39A, 0x3F0), (0x3C0, 0x3A0, 0x3D6),
            (0x3C1, 0x3A1, 0x3F1), (0x3C3, 0x3A3, 0x3C2), (0x3C6, 0x3A6, 0x3D5), (0x1E61, 0x1E60, 0x1E9B),
        ];
        foreach ((int plain, int upper, int variant) in more)
        {
            if (codePoint == plain || codePoint == upper || codePoint == variant)
            {
                yield return plain;
                yield return upper;
                yield return variant;
            }
        }
    }

    private static CodePointSet[] BuildCategories()
    {
        var ranges = new List<(int, int)>[30];
        for (int category = 0; category < ranges.Length; category++)
        {
            ranges[category] = [];
        }

        int start = 0;
        UnicodeCategory current = CodePoints.Category(0);
        for (int codePoint = 1; codePoint <= Last + 1; codePoint++)
        {
            if (codePoint <= Last && CodePoints.Category(codePoint) == current)
            {
                continue;
            }

            ranges[(int)current].Add((start, codePoint - 1));
            start = codePoint;
            current = codePoint <= Last ? CodePoints.Category(codePoint) : current;
        }

        return [.. ranges.Select(list => new CodePointSet(list))];
    }
}

using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Formats.Tokenization.Patterns;

namespace LoraSharp.Formats.Tests.Tokenization;

/// <summary>The translated expressions against Oniguruma itself.</summary>
public sealed class OnigurumaTests
{
    /// <summary>Every code point up to U+31FFF, as the library matched it (tests/Fixtures/tokenizers/components/make-classes.mjs).</summary>
    [Fact]
    public void ClassesHoldTheSameCodePoints()
    {
        JsonObject golden = JsonFile.ReadObject(Fixtures.Path("tokenizers/components/classes.json"));
        HashSet<int> unassigned = Members(golden[@"\p{C}"]!);
        var faults = new List<string>();
        foreach ((string expression, JsonNode? ranges) in golden)
        {
            HashSet<int> expected = Members(ranges!);
            var pattern = new RegexPattern(expression, "test");
            var found = new HashSet<int>();
            // A separator that no class but a few holds keeps neighbours apart.
            for (int codePoint = 3; codePoint < 0x32000; codePoint++)
            {
                if (codePoint is >= 0xD800 and <= 0xDFFF)
                {
                    continue;
                }

                List<MatchSpan> spans = pattern.FindMatches(char.ConvertFromUtf32(codePoint));
                if (spans is [{ IsMatch: true }])
                {
                    found.Add(codePoint);
                }
            }

            found.SymmetricExceptWith(expected);
            // Unicode versions differ in what is assigned at all, and U+0295 has become a lower-case letter.
            int[] wrong = [.. found.Where(codePoint => codePoint > 2 && codePoint != 0x295 && !unassigned.Contains(codePoint)
                && CharUnicodeInfo.GetUnicodeCategory(codePoint) != UnicodeCategory.OtherNotAssigned).Order()];
            if (wrong.Length > 0)
            {
                faults.Add($"{expression}: {wrong.Length} differ, e.g. {string.Join(' ', wrong.Take(12).Select(codePoint => codePoint.ToString("X4", CultureInfo.InvariantCulture)))}");
            }
        }

        Assert.True(faults.Count == 0, string.Join('\n', faults));
    }

    [Theory]
    [InlineData("(a", "the group has no end")]
    [InlineData("[a", "the class has no end")]
    [InlineData("*a", "nothing to repeat")]
    [InlineData(@"\p{Nonsense}", "the property Nonsense is not known")]
    [InlineData("a)", "unmatched )")]
    public void MalformedExpressionsSayWhatIsWrong(string expression, string expected)
    {
        var error = Assert.Throws<MalformedFileException>(() => new RegexPattern(expression, "tokenizer.json"));
        Assert.Contains(expected, error.Message, StringComparison.Ordinal);
        Assert.Contains("tokenizer.json", error.Message, StringComparison.Ordinal);
    }

    /// <summary>The hand-written scanners against the expressions they stand for.</summary>
    [Theory]
    [InlineData(BpeWordPattern.Gpt2Expression)]
    [InlineData(@"\p{N}{1,3}")]
    [InlineData(@"\p{N}")]
    [InlineData(@"\p{N}+")]
    [InlineData(@"\p{N}{1,2}")]
    public void ScannersCutLikeTheirExpressions(string expression)
    {
        expression = expression == BpeWordPattern.Gpt2Expression ? expression : BpeWordPattern.ModernExpression(expression);
        BpeWordPattern scanner = BpeWordPattern.For(expression)!;
        Assert.NotNull(scanner);
        var reference = new RegexPattern(expression, "test");
        string[] atoms = [" ", "  ", "\n", "\r\n", "\t", "\u3000", "\u00A0", "\u0085", "a", "Z", "é", "日", "\U0001D518", "1", "½", "\U0001D7D8", "'", "'s", "'S", "'ſ", "'ll", "'Re", "’", "!", "-", "\U0001F600", "\u0301", "_", "\u200D", "x", "12345"];
        var random = new Random(5);
        for (int round = 0; round < 4000; round++)
        {
            string text = string.Concat(Enumerable.Range(0, random.Next(1, 14)).Select(_ => atoms[random.Next(atoms.Length)]));
            Assert.Equal(reference.FindMatches(text), scanner.FindMatches(text));
        }
    }

    [Fact]
    public void TranslationIsAnExpressionOfDotNet() =>
        Assert.Equal("(?:[\\u0061-\\u0062])*?", new Regex(OnigurumaTranslator.Translate("[ab]*?", astral: false)).ToString());

    private static HashSet<int> Members(JsonNode ranges) =>
        [.. ranges.AsArray().SelectMany(range => Enumerable.Range((int)range![0]!, (int)range[1]! - (int)range[0]! + 1))];
}

using System.Text.RegularExpressions;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Tests.Inference.Constraints;

/// <summary>Texts generated under an expression match it, by .NET's own engine.</summary>
public sealed class RegexConstraintTests
{
    // Of what compiling may take before its budget ends it; a blow-up would be many times this.
    private const long MostAllocated = 4L << 30;

    public static TheoryData<string> Patterns =>
    [
        "abc", "[a-z]{3,5}", "(foo|ba[rz])+", "\\d{3}-\\d{4}", "[^a]b?", "a*b+c?", "^x{2}$", "(?:yes|no)(?: \\(sure\\))?", "\\w+@\\w+\\.(com|org)", "[\\w.-]{1,8}",
        ".{4}", "\\s\\S\\d\\D\\w\\W", "\\p{Lu}\\p{Ll}{2}", "[\\p{L}-]{2,3}", "\\P{L}x", "(?i)straße", "(?i:AbC)d", "é+日", "[\\u00e0-\\u00ff]{2}", "\\x41\\t\\.", "a{2,}", "x{,3}", ".+\\p{L}{2}[^a-z]*", "{}", "a]b",
        "[a-c-]{3}", "(?<year>20\\d\\d)-(?'month'0[1-9])", "^(a|^b)c", "a(b$|c)", "(a|)(b|)", "((a{2}){2}){2}", "[^\\d\\s]{2}", "\\$\\{\\}\\[\\]\\(\\)\\*\\+\\?\\|\\^", "\\Aab\\z", "(?s).\\n?", "a+?b*?",
        "(19|20)[0-9]{2}-(0[1-9]|1[012])", "-?(0|[1-9]\\d*)(\\.\\d+)?",
    ];

    [Theory]
    [MemberData(nameof(Patterns))]
    public void Generated_texts_match(string pattern)
    {
        TokenConstraint constraint = RandomText.Compiler.Regex(pattern);
        var reference = new Regex($"^(?:{pattern})$", RegexOptions.CultureInvariant);
        int complete = 0;
        for (int seed = 0; seed < 40; seed++)
        {
            if (RandomText.Of(constraint, seed) is { } text)
            {
                complete++;
                Assert.Matches(reference, text);
            }
        }

        Assert.True(complete > 20, $"{pattern}: only {complete} of 40 texts ended");
    }

    [Theory]
    [InlineData("(a)\\1", "a reference to a group")]
    [InlineData("a(?=b)", "looking ahead or behind")]
    [InlineData("(?<!a)b", "looking ahead or behind")]
    [InlineData("a\\b", "a word boundary")]
    [InlineData("(?>a)", "an atomic")]
    [InlineData("a++", "a possessive")]
    [InlineData("*a", "nothing before it")]
    [InlineData("(a", "a '(' without its ')'")]
    [InlineData("a)", "a ')' without its '('")]
    [InlineData("[a", "a '[' without its ']'")]
    [InlineData("[z-a]", "a range")]
    [InlineData("a{3,2}", "at least 3 and at most 2")]
    [InlineData("\\q", "not known")]
    [InlineData("\\p{Nope}", "the property 'Nope'")]
    [InlineData("a$b", "matches no text")]
    [InlineData("\\uD800", "half of a surrogate pair")]
    [InlineData("[]", "an empty set")]
    public void What_no_automaton_can_do_is_refused_by_name(string pattern, string message) =>
        Assert.Contains(message, Assert.Throws<ConstraintException>(() => RandomText.Compiler.Regex(pattern)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("(.*a){20}b.{200}")]
    [InlineData("((a{100}){100}){100}")]
    [InlineData("(a|b|ab)*a(.|b){25}z")]
    [InlineData("((){9999}){9999}")]
    [InlineData("[a-z]*a[a-z]{40}")]
    [InlineData("(\\p{L}{1,50}\\p{N}{1,50}){1,50}")]
    public void Expressions_that_blow_up_are_refused_soon(string pattern)
    {
        // Work, not time: a machine under load is slow, but no expression makes it allocate more.
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Contains("The constraint is too", Assert.Throws<ConstraintException>(() => RandomText.Compiler.Regex(pattern)).Message, StringComparison.Ordinal);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, MostAllocated);
    }

    [Fact]
    public void Expressions_that_make_other_engines_backtrack_are_nothing_special()
    {
        TokenConstraint constraint = RandomText.Compiler.Regex("(a+)+b(x*)*y");
        Assert.Matches("^a+bx*y$", RandomText.Of(constraint, 1)!);
    }

    [Fact]
    public void A_choice_gives_one_of_its_texts()
    {
        string[] texts = ["a.b", "(c)", "]}", "x y", "日本\n"];
        TokenConstraint constraint = RandomText.Compiler.OneOf(texts);
        HashSet<string> seen = [.. Enumerable.Range(0, 60).Select(seed => RandomText.Of(constraint, seed)!)];
        Assert.Equal(texts.Order(StringComparer.Ordinal), seen.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void The_same_expression_is_compiled_once() => Assert.Same(RandomText.Compiler.Regex("[0-9]{9}"), RandomText.Compiler.Regex("[0-9]{9}"));
}

using System.Text.Json.Nodes;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Tests.Inference.Constraints;

/// <summary>A mask has exactly the tokens whose bytes the grammar can read, byte by byte, without any of the masks' short cuts.</summary>
public sealed class TokenMaskTests
{
    public static TheoryData<string> Schemas =>
    [
        """{"type":"object","properties":{"name":{"type":"string","maxLength":5},"age":{"type":"integer","minimum":0,"maximum":150},"tags":{"type":"array","items":{"type":"string"},"maxItems":2}},"required":["name"],"additionalProperties":false}""",
        """{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"v":{"type":"number"},"c":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["v","c"]}}}""",
        """{"anyOf":[{"type":"string","pattern":"^a+b"},{"type":"array","items":{"type":"boolean"},"minItems":1},{"enum":["abc","ab",12,null]}]}""",
        """{"type":"object","minProperties":1,"maxProperties":3,"additionalProperties":{"type":["integer","null"]}}""",
        """true""",
    ];

    [Theory]
    [MemberData(nameof(Schemas))]
    public void Masks_are_exact(string schema)
    {
        TokenConstraint constraint = RandomText.Compiler.Json(JsonNode.Parse(schema)!);
        for (int seed = 0; seed < 12; seed++)
        {
            Check(constraint, seed, 40);
        }
    }

    [Theory]
    [InlineData("[a-z]+(, [a-z]+){2,4}\\.")]
    [InlineData("(true|tr|true,|ab?c?)*")]
    [InlineData(".{0,9}")]
    public void Masks_of_expressions_are_exact(string pattern) => Check(RandomText.Compiler.Regex(pattern), 3, 40);

    [Fact]
    public void Nesting_ends_at_the_limit_and_every_text_can_still_end()
    {
        var shallow = new ConstraintCompiler(RandomText.Vocabulary, [RandomText.Vocabulary.Eos], new ConstraintLimits { MaxDepth = 5 });
        TokenConstraint constraint = shallow.Json(JsonNode.Parse(Schemas.ElementAt(1).Data)!);
        for (int seed = 0; seed < 12; seed++)
        {
            Check(constraint, seed, 60);
        }
    }

    private static void Check(TokenConstraint constraint, int seed, int steps)
    {
        Grammar grammar = constraint.Grammar;
        TokenVocabulary vocabulary = constraint.Vocabulary;
        var random = new Random(seed);
        var here = new GrammarItems();
        GrammarRun.Start(grammar, here);
        for (int step = 0; step < steps; step++)
        {
            ulong[] mask = new ulong[(vocabulary.Size + 63) / 64];
            constraint.Collect(here, mask);
            var allowed = new List<int>();
            for (int token = 0; token < vocabulary.Size; token++)
            {
                bool expected = vocabulary.Bytes(token).Length > 0 && !Read(grammar, here, vocabulary.Bytes(token)).IsEmpty;
                Assert.True(expected == ((mask[token >> 6] >> (token & 63)) & 1) > 0, $"seed {seed}, step {step}: token {token} '{System.Text.Encoding.UTF8.GetString(vocabulary.Bytes(token))}' expected {expected}");
                if (expected)
                {
                    allowed.Add(token);
                }
            }

            if (allowed.Count == 0)
            {
                Assert.True(here.IsComplete, "a text that can neither end nor go on");
                return;
            }

            here = Read(grammar, here, vocabulary.Bytes(allowed[random.Next(allowed.Count)]));
        }
    }

    private static GrammarItems Read(Grammar grammar, GrammarItems from, ReadOnlySpan<byte> bytes)
    {
        GrammarItems at = from;
        foreach (byte value in bytes)
        {
            var next = new GrammarItems();
            GrammarRun.Step(grammar, at.All, value, next);
            at = next;
        }

        return at;
    }
}

using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat;

namespace LoraSharp.Formats.Tests.Chat;

/// <summary>Against what real Jinja rendered (tests/Fixtures/chat/make_chat.py).</summary>
public class JinjaReferenceTests
{
    // The clock that make_chat.py had.
    private static readonly DateTimeOffset Now = new(2024, 7, 6, 9, 5, 3, TimeSpan.Zero);

    [Fact]
    public void Every_feature_renders_as_in_Jinja() => Compare(File.ReadLines(Fixtures.Path("chat/features.jsonl")), line => line["template"]!.GetValue<string>(), compareErrors: true);

    [Fact]
    public void Templates_of_real_models_render_as_in_Jinja()
    {
        string folder = Fixtures.ReferenceOrSkip("chat");
        Compare(File.ReadLines(Path.Combine(folder, "corpus.jsonl")), line => File.ReadAllText(Path.Combine(folder, "templates", line["file"]!.GetValue<string>())), compareErrors: true);
    }

    private static void Compare(IEnumerable<string> lines, Func<JsonObject, string> template, bool compareErrors)
    {
        var cache = new Dictionary<string, ChatTemplate>();
        var failures = new List<string>();
        int count = 0;
        foreach (string line in lines)
        {
            count++;
            JsonObject expected = JsonNode.Parse(line)!.AsObject();
            string source = template(expected);
            JsonObject variables = expected["variables"]!.DeepClone().AsObject();
            JsonArray messages = variables["messages"]?.DeepClone() as JsonArray ?? [];
            bool prompt = variables["add_generation_prompt"]?.GetValue<bool>() ?? false;
            variables.Remove("messages");
            variables.Remove("add_generation_prompt");
            try
            {
                if (!cache.TryGetValue(source, out ChatTemplate? parsed))
                {
                    parsed = cache[source] = ChatTemplate.Parse(source, null, null, new FixedClock());
                }

                RenderedChat actual = parsed.Render(messages, prompt, variables);
                JsonArray spans = expected["spans"] as JsonArray ?? [];
                string? wanted = expected["text"]?.GetValue<string>();
                if (wanted is null)
                {
                    failures.Add($"{Name(expected)}: expected error {expected["error"]}, got text {Short(actual.Text)}");
                }
                else if (actual.Text != wanted)
                {
                    int at = actual.Text.Zip(wanted).TakeWhile(pair => pair.First == pair.Second).Count();
                    failures.Add($"{Name(expected)}: at {at} expected {Short(wanted[at..])}, got {Short(actual.Text[at..])}");
                }
                else if (!spans.Select(span => Slice(wanted, (int)span![0]!, (int)span[1]!)).SequenceEqual(actual.AssistantSpans.Select(span => wanted[span.Start..span.End])))
                {
                    failures.Add($"{Name(expected)}: other assistant spans");
                }
            }
            catch (ChatTemplateException error)
            {
                if (expected["error"] is null)
                {
                    failures.Add($"{Name(expected)}: expected text {Short(expected["text"]!.GetValue<string>())}, got error {error.Message}");
                }
                else if (compareErrors && error.Reason != expected["error"]!.GetValue<string>())
                {
                    failures.Add($"{Name(expected)}: expected {expected["error_type"]} {expected["error"]}, got {error.Reason}");
                }
            }
        }

        Assert.True(count > 0);
        Assert.True(failures.Count == 0, $"{failures.Count} of {count}:\n{string.Join('\n', failures.Take(40))}");
    }

    // The spans of the reference count code points.
    private static string Slice(string text, int start, int end)
    {
        int[] points = text.EnumerateRunes().Select(rune => rune.Value).ToArray();
        return string.Concat(points[start..end].Select(char.ConvertFromUtf32));
    }

    private static string Name(JsonObject expected) => expected["file"]?.GetValue<string>() ?? Short(expected["template"]!.GetValue<string>());

    private static string Short(string text) => "«" + (text.Length > 90 ? text[..90] + "…" : text).Replace("\n", "\\n", StringComparison.Ordinal) + "»";

    private sealed class FixedClock : TimeProvider
    {
        public override TimeZoneInfo LocalTimeZone => TimeZoneInfo.Utc;

        public override DateTimeOffset GetUtcNow() => Now;
    }
}

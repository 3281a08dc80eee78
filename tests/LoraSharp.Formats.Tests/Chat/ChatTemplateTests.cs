using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Tests.Chat;

public class ChatTemplateTests
{
    private const string UserTurn = """[{"role": "user", "content": "Hi"}]""";

    [Theory]
    [InlineData("smollm2", "models/smollm2-135m-instruct")]
    [InlineData("qwen3", "tokenizers-npm/qwen3")]
    [InlineData("llama3_1", "tokenizers-npm/llama3_1")]
    public void Renders_the_goldens_of_transformers(string name, string folder)
    {
        JsonObject golden = JsonFile.ReadObject(Fixtures.ReferenceOrSkip($"fixtures/tokenizers/{name}.golden.json"));
        ChatTemplate template = ChatTemplate.FromFolder(Fixtures.ReferenceOrSkip(folder))!;
        Assert.Equal(12, golden["chats"]!.AsArray().Count);
        foreach (JsonNode? chat in golden["chats"]!.AsArray())
        {
            RenderedChat actual = template.Render(chat!["messages"]!.AsArray(), chat["add_generation_prompt"]!.GetValue<bool>(), chat["arguments"]?.AsObject());
            Assert.Equal(chat["text"]!.GetValue<string>(), actual.Text);
        }
    }

    [Fact]
    public void Raise_exception_reaches_the_caller_in_the_templates_own_words()
    {
        ChatTemplate template = ChatTemplate.Parse("\n{{ raise_exception('System role not supported') }}", null, null);
        ChatTemplateException error = Assert.Throws<ChatTemplateException>(() => Render(template));
        Assert.Equal("System role not supported", error.Reason);
        Assert.True(error.RaisedByTemplate);
        Assert.Equal(2, error.Line);
    }

    [Fact]
    public void Syntax_errors_name_the_line()
    {
        ChatTemplateException error = Assert.Throws<ChatTemplateException>(() => ChatTemplate.Parse("a\nb\n{% iff %}", null, null));
        Assert.Equal(3, error.Line);
        Assert.Contains("unknown tag 'iff'", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "steps")]
    [InlineData("{% set s = 'x' * 100 %}{% for a in range(100000) %}{% for b in range(100) %}{{ s }}{% endfor %}{% endfor %}", "characters")]
    [InlineData("{{ 'x' * 1000000000000 }}", "characters")]
    [InlineData("{{ [0] * 1000000000000 }}", "steps")]
    [InlineData("{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "characters")]
    [InlineData("{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "steps")]
    [InlineData("{{ 'a'.replace('', 'x' * 100000000) }}", "characters")]
    [InlineData("{{ 'a'.ljust(1000000000000) }}", "characters")]
    [InlineData("{{ '%1000000000d' % 1 }}", "characters")]
    [InlineData("{{ '{:1000000000}'.format(1) }}", "characters")]
    [InlineData("{{ 'x'|center(1000000000) }}", "characters")]
    [InlineData("{{ 10 ** 1000000 }}", "bits")]
    [InlineData("{{ 10 ** 1000000000000000000000000 }}", "bits")]
    [InlineData("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion")]
    [InlineData("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "recursion")]
    [InlineData("{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", "recursion")]
    [InlineData("{{ range(1000000) }}", "MAX_RANGE")]
    public void Hostile_templates_run_into_limits(string source, string limit)
    {
        ChatTemplate template = ChatTemplate.Parse(source, null, null);
        long before = GC.GetAllocatedBytesForCurrentThread();
        ChatTemplateException error = Assert.Throws<ChatTemplateException>(() => Render(template));
        Assert.Contains(limit, error.Message, StringComparison.Ordinal);

        // A step of a loop makes 272 bytes that live as long as the step (debug build); so the limit on steps is one on the work.
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 512 * new ChatTemplateLimits().MaxSteps);
    }

    [Theory]
    [InlineData("(")]
    [InlineData("[")]
    [InlineData("not ")]
    [InlineData("-")]
    [InlineData("{1:")]
    public void Deep_nesting_is_an_error_and_no_crash(string piece)
    {
        string source = "{{ " + string.Concat(Enumerable.Repeat(piece, 200_000));
        Assert.Throws<ChatTemplateException>(() => ChatTemplate.Parse(source, null, null));
        Assert.Throws<ChatTemplateException>(() => ChatTemplate.Parse(string.Concat(Enumerable.Repeat("{% if a %}", 100_000)), null, null));
        Assert.Throws<ChatTemplateException>(() => ChatTemplate.Parse("{{ 1" + string.Concat(Enumerable.Repeat(" if 1 else 1", 100_000)) + "}}", null, null));
    }

    [Fact]
    public void A_long_conversation_stays_within_the_limits()
    {
        ChatTemplate template = ChatTemplate.Parse("{% for m in messages %}{{ '<' + m.role + '>' ~ m['content'].strip() ~ m|tojson }}{% endfor %}", null, null);
        var turn = new JsonObject { ["role"] = "user", ["content"] = new string('x', 500) };
        var messages = new JsonArray(Enumerable.Range(0, 10_000).Select(_ => (JsonNode?)turn.DeepClone()).ToArray());
        Assert.True(template.Render(messages, false).Text.Length > 10_000_000);
    }

    [Fact]
    public void Long_chains_do_not_crash()
    {
        string source = "{{ 1" + string.Concat(Enumerable.Repeat(" + 1", 200_000)) + "}}";
        ChatTemplateException? error = Record.Exception(() => Render(ChatTemplate.Parse(source, null, null))) as ChatTemplateException;
        Assert.NotNull(error);
    }

    [Theory]
    [InlineData("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe.")]
    [InlineData("{{ messages[0].update({}) }}", "access to attribute 'update' of 'dict' object is unsafe.")]
    [InlineData("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe.")]
    public void The_sandbox_refuses_changes_and_internals(string source, string message)
    {
        ChatTemplateException error = Assert.Throws<ChatTemplateException>(() => Render(ChatTemplate.Parse(source, null, null)));
        Assert.Equal(message, error.Reason);
    }

    [Fact]
    public void Variables_win_over_special_tokens_and_absent_tokens_are_undefined()
    {
        ChatTemplate template = ChatTemplate.Parse("{{ bos_token }}|{{ eos_token }}|{{ pad_token is defined }}|{{ tools is none }}", "<s>", null);
        Assert.Equal("<s>||False|True", Render(template).Text);
        Assert.Equal("B||False|False", template.Render([], false, new JsonObject { ["bos_token"] = "B", ["tools"] = new JsonArray() }).Text);
    }

    [Fact]
    public void Numbers_keep_their_kind()
    {
        ChatTemplate template = ChatTemplate.Parse("{{ a }} {{ b }} {{ c }} {{ d }} {{ e }}", null, null);
        var made = new JsonObject { ["a"] = 1.0, ["b"] = 1, ["c"] = 2L, ["d"] = 0.5f, ["e"] = 3m };
        Assert.Equal("1.0 1 2 0.5 3", template.Render([], false, made).Text);
        JsonObject parsed = JsonNode.Parse("""{"a": 1.0, "b": 1, "c": 1e2, "d": 123456789012345678901234567890, "e": -0.0}""")!.AsObject();
        Assert.Equal("1.0 1 100.0 123456789012345678901234567890 -0.0", template.Render([], false, parsed).Text);
    }

    [Fact]
    public void Assistant_spans_inside_macros_are_found()
    {
        ChatTemplate template = ChatTemplate.Parse("{% macro turn(m) %}<{{ m.role }}>{% generation %}{{ m.content }}!{% endgeneration %}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}", null, null);
        Assert.True(template.MarksAssistant);
        RenderedChat chat = Render(template);
        Assert.Equal(["Hi!"], chat.AssistantSpans.Select(span => chat.Text[span.Start..span.End]));
    }

    [Fact]
    public void A_generation_block_that_is_changed_or_not_printed_marks_nothing()
    {
        RenderedChat chat = Render(ChatTemplate.Parse("{% set x %}{% generation %}abc{% endgeneration %}{% endset %}{% filter upper %}{% generation %}abc{% endgeneration %}{% endfilter %}", null, null));
        Assert.Equal("ABC", chat.Text);
        Assert.Empty(chat.AssistantSpans);
    }

    [Fact]
    public void A_folder_gives_its_template_and_special_tokens()
    {
        using var folder = new TemporaryFolder();
        Assert.Null(ChatTemplate.FromFolder(folder.Path));
        folder.Write("tokenizer_config.json", """{"chat_template": "{{ bos_token }}config", "bos_token": {"content": "<b>", "lstrip": false}, "eos_token": null}""");
        folder.Write("special_tokens_map.json", """{"eos_token": "<e>", "unk_token": "<u>"}""");
        Assert.Equal("<b>config", Render(ChatTemplate.FromFolder(folder.Path)!).Text);
        folder.Write("chat_template.jinja", "{{ bos_token }}{{ eos_token }}{{ unk_token }}file\n");
        Assert.Equal("<b><u>file", Render(ChatTemplate.FromFolder(folder.Path)!).Text);
    }

    [Fact]
    public void Named_templates_are_chosen_as_transformers_does()
    {
        using var folder = new TemporaryFolder();
        folder.Write("tokenizer_config.json", """{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]}""");
        ChatTemplate template = ChatTemplate.FromFolder(folder.Path)!;
        Assert.Equal(["default", "tool_use"], template.Names);
        Assert.Equal("plain", Render(template).Text);
        Assert.Equal("tools", template.Render([], false, new JsonObject { ["tools"] = new JsonArray() }).Text);

        folder.Write("chat_template.jinja", "file");
        folder.Write("additional_chat_templates/tool_use.jinja", "file tools");
        template = ChatTemplate.FromFolder(folder.Path)!;
        Assert.Equal("file", Render(template).Text);
        Assert.Equal("file tools", template.Render([], false, new JsonObject { ["tools"] = new JsonArray() }).Text);
    }

    [Fact]
    public void Templates_without_a_default_say_which_there_are()
    {
        ChatTemplate template = ChatTemplate.Create(new Dictionary<string, string> { ["rag"] = "x", ["tool_use"] = "y" }, new Dictionary<string, JsonNode?>());
        Assert.Contains("rag, tool_use", Assert.Throws<ChatTemplateException>(() => Render(template)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Malformed_template_lists_name_the_file()
    {
        using var folder = new TemporaryFolder();
        folder.Write("tokenizer_config.json", """{"chat_template": [{"name": "default"}]}""");
        Assert.Contains("tokenizer_config.json", Assert.Throws<MalformedFileException>(() => ChatTemplate.FromFolder(folder.Path)).Message, StringComparison.Ordinal);
    }

    private static RenderedChat Render(ChatTemplate template) => template.Render(JsonNode.Parse(UserTurn)!.AsArray(), false);

    private sealed class TemporaryFolder : IDisposable
    {
        public string Path { get; } = Directory.CreateTempSubdirectory("lorasharp-chat-").FullName;

        public void Write(string name, string text)
        {
            string path = System.IO.Path.Combine(Path, name);
            Directory.CreateDirectory(System.IO.Path.GetDirectoryName(path)!);
            File.WriteAllText(path, text);
        }

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }
}

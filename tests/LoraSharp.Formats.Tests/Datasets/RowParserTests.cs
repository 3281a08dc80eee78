using System.Text.Json.Nodes;
using LoraSharp.Formats.Datasets;

namespace LoraSharp.Formats.Tests.Datasets;

public sealed class RowParserTests
{
    [Theory]
    [InlineData("""{"messages": []}""", DatasetFormat.Chat)]
    [InlineData("""{"conversations": [], "tools": "[]"}""", DatasetFormat.Chat)]
    [InlineData("""{"instruction": "", "input": "", "output": ""}""", DatasetFormat.Alpaca)]
    [InlineData("""{"instruction": "", "context": "", "response": "", "category": ""}""", DatasetFormat.Alpaca)]
    [InlineData("""{"prompt": "", "completion": ""}""", DatasetFormat.PromptCompletion)]
    [InlineData("""{"prompt": "", "references": ["a"]}""", DatasetFormat.PromptCompletion)]
    [InlineData("""{"question": "", "answer": ""}""", DatasetFormat.PromptCompletion)]
    [InlineData("""{"text": "", "label": "card"}""", DatasetFormat.PromptCompletion)]
    [InlineData("""{"text": "", "id": 4}""", DatasetFormat.Text)]
    [InlineData("""{"prompt": "", "chosen": "", "rejected": ""}""", DatasetFormat.Preference)]
    [InlineData("""{"conversations": [], "chosen": {}, "rejected": {}}""", DatasetFormat.Preference)]
    [InlineData("""{"instruction": "", "output": "", "chosen": "", "rejected": ""}""", DatasetFormat.Preference)]
    [InlineData("""{"prompt": "", "completion": "", "label": true}""", DatasetFormat.Kto)]
    [InlineData("""{"messages": [], "kto_tag": false}""", DatasetFormat.Kto)]
    [InlineData("""{"input_ids": [1], "labels": [1], "attention_mask": [1]}""", DatasetFormat.Tokenized)]
    public void The_format_is_found_by_looking(string row, DatasetFormat expected) => Assert.Equal(expected, RowSchema.Detect(Row(row)).Format);

    [Fact]
    public void Columns_that_fit_nothing_are_listed()
    {
        string message = Assert.Throws<DatasetException>(() => RowSchema.Detect(Row("""{"foo": 1, "bar": "x"}"""))).Message;
        Assert.Contains("the columns foo, bar", message);
        Assert.Contains("data.columns", message);
    }

    [Fact]
    public void Sharegpt_becomes_messages_with_tool_calls()
    {
        var chat = (ChatContent)new RowParser().Parse(Row("""
            {"system": "Be brief.", "tools": "[{\"name\": \"f\", \"parameters\": {}}]", "conversations": [
              {"from": "human", "value": "hi"},
              {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
              {"from": "observation", "value": "{\"r\": 2}"},
              {"from": "gpt", "value": "done", "weight": 0.5},
              {"from": "gpt", "value": "no", "train": false}]}
            """));
        Assert.Equal(["system", "user", "assistant", "tool", "assistant", "assistant"], chat.Messages.Select(m => (string)m!["role"]!));
        Assert.Equal("""[{"type":"function","function":{"name":"f","arguments":{"a":1}}}]""", chat.Messages[2]!["tool_calls"]!.ToJsonString());
        Assert.Equal([null, null, null, null, 0.5f, 0f], chat.Weights);
        Assert.Equal("f", (string)chat.Variables["tools"]![0]!["function"]!["name"]!);
        Assert.Equal(["role", "content"], ((JsonObject)chat.Messages[4]!).Select(p => p.Key));
    }

    [Fact]
    public void Openai_messages_keep_what_templates_know()
    {
        var chat = (ChatContent)new RowParser().Parse(Row("""{"messages": [{"role": "user", "content": "hi", "name": "Bo"}, {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]}"""));
        Assert.Equal("Bo", (string)chat.Messages[0]!["name"]!);
        Assert.Equal("hm", (string)chat.Messages[1]!["reasoning_content"]!);
    }

    [Theory]
    [InlineData("""{"messages": [{"content": "x"}]}""", "message 0 has no 'role'")]
    [InlineData("""{"messages": [{"role": "user"}]}""", "message 0 (user) has no 'content'")]
    [InlineData("""{"messages": [{"role": "user", "content": 3}]}""", "must be text or a list of parts, found a number")]
    [InlineData("""{"messages": ["x"]}""", "message 0 must be an object")]
    [InlineData("""{"messages": []}""", "the list of messages is empty")]
    [InlineData("""{"messages": "x"}""", "must be a list of messages, found text")]
    [InlineData("""{"conversations": [{"from": "alien", "value": "x"}]}""", "message 0 is from 'alien'")]
    [InlineData("""{"messages": [{"role": "asistant", "content": "x"}]}""", "message 0 has the role 'asistant', which no chat template knows. Expected system, user, assistant or tool. Did you mean 'assistant'?")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}, {"role": "Assistant", "content": "x"}]}""", "message 1 has the role 'Assistant'")]
    [InlineData("""{"messages": [{"role": "gpt", "content": "x"}]}""", "Did you mean 'assistant'?")]
    [InlineData("""{"messages": [{"role": "assistant", "content": "x", "train": "often"}]}""", "must be true, false or a number")]
    [InlineData("""{"prompt": 3, "completion": "x"}""", "'prompt' must be text, found a number")]
    [InlineData("""{"input_ids": [1, 2], "labels": [1]}""", "'labels' has 1 entries, 'input_ids' has 2")]
    [InlineData("""{"input_ids": [1, -2]}""", "'input_ids' holds -2")]
    [InlineData("""{"input_ids": [[1, 2]]}""", "one row of a micro-batch a line")]
    [InlineData("""{"input_ids": [1, 2], "attention_mask": [1]}""", "'attention_mask' must hold 2 entries")]
    [InlineData("""{"prompt": "p", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}""", "Expected both as text or both as messages")]
    public void Malformed_rows_are_explained(string row, string expected)
    {
        string message = Assert.Throws<DatasetException>(() => new RowParser().Parse(Row(row))).Message;
        Assert.Contains(expected, message);
        Assert.StartsWith("rows.jsonl:7", message);
    }

    [Theory]
    [InlineData(DatasetFormat.Kto, """{"prompt": "p", "completion": "c", "label": "yes"}""", "'label' must be true or false (or 1 or 0), which preference.loss: x learns from, found \"yes\"")]
    [InlineData(DatasetFormat.Kto, """{"prompt": "p", "completion": "c"}""", "expected a row of format kto, which preference.loss: x learns from, with 'label' (true or false). Found the columns prompt, completion.")]
    [InlineData(DatasetFormat.Preference, """{"prompt": "p", "completion": "c"}""", "with 'chosen' (text). Found the columns prompt, completion. Name the columns where they are called otherwise (data.columns: { chosen: COLUMN }), or change what asks for preference rows (preference.loss: x)")]
    public void Rows_that_do_not_fit_what_is_asked_are_told_who_asked(DatasetFormat format, string row, string expected)
    {
        string message = Assert.Throws<DatasetException>(() => new RowParser(format, because: "preference.loss: x").Parse(Row(row))).Message;
        Assert.Contains(expected, message);
        Assert.StartsWith("rows.jsonl:7", message);
    }

    [Theory]
    [InlineData("""{"prompt": "p", "completion": "c", "label": "yes", "id": 4}""", "label id")]
    [InlineData("""{"question": "p", "answer": "c", "system": "s"}""", "system")]
    [InlineData("""{"conversations": [{"from": "human", "value": "q"}], "system": "s", "tools": "[]", "source": "x"}""", "source")]
    [InlineData("""{"question": "p", "chosen": "c", "rejected": "d", "score": 1}""", "score")]
    [InlineData("""{"input_ids": [1], "labels": [1], "length": 1}""", "length")]
    public void Columns_that_mean_nothing_are_told(string row, string expected)
    {
        var parser = new RowParser();
        parser.Parse(Row(row));
        Assert.Equal(expected.Split(' '), parser.UnusedColumns);
    }

    [Fact]
    public void A_role_of_a_template_of_its_own_passes() =>
        Assert.Equal("critic", (string)((ChatContent)new RowParser().Parse(Row("""{"messages": [{"role": "critic", "content": "x"}]}"""))).Messages[0]!["role"]!);

    [Fact]
    public void A_row_of_another_schema_is_named_with_the_row_that_showed_the_format()
    {
        var parser = new RowParser();
        parser.Parse(Row("""{"prompt": "a", "completion": "b"}""", 1));
        string message = Assert.Throws<DatasetException>(() => parser.Parse(Row("""{"text": "a"}""", 9))).Message;
        Assert.StartsWith("rows.jsonl:9", message);
        Assert.Contains("prompt_completion as the first row (rows.jsonl:1) showed", message);
        Assert.Contains("Found the columns text", message);
    }

    [Fact]
    public void Columns_and_templates()
    {
        var columns = new Dictionary<string, string> { ["prompt"] = "q", ["completion"] = "a" };
        Assert.Equal(new PromptContent("1", "2"), new RowParser(columns: columns).Parse(Row("""{"q": "1", "a": "2"}""")));
        Assert.Equal(new PromptContent("Q: 1 {x}\nA:", "2"), new RowParser(promptTemplate: "Q: {question} {{x}}\nA:").Parse(Row("""{"question": "1", "answer": "2"}""")));
        Assert.Equal(new PromptContent("1", " 2."), new RowParser(columns: new Dictionary<string, string> { ["prompt"] = "q" }, completionTemplate: " {n}.").Parse(Row("""{"q": "1", "n": 2}""")));
        Assert.Contains("names the column 'x'", Assert.Throws<DatasetException>(() => new RowParser(promptTemplate: "{x}").Parse(Row("""{"question": "1", "answer": "2"}"""))).Message);
        Assert.Contains("there is no column 'nope'", Assert.Throws<DatasetException>(() => new RowParser(columns: new Dictionary<string, string> { ["prompt"] = "nope" }).Parse(Row("""{"q": "1"}"""))).Message);
        Assert.Throws<LoraSharpException>(() => new FieldTemplate("{open"));
    }

    [Fact]
    public void Preferences_in_their_shapes()
    {
        var plain = Preference("""{"prompt": "p", "chosen": "{\"json\": 1}", "rejected": "b"}""");
        Assert.Equal(new PromptContent("p", "{\"json\": 1}"), plain.Chosen);
        var implied = Preference("""{"chosen": "Human: hi Bot: good", "rejected": "Human: hi Bot: goat"}""");
        Assert.Equal(new PromptContent("Human: hi Bot:", " goat"), implied.Rejected);
        var alpaca = Preference("""{"instruction": "i", "input": "x", "output": "o", "chosen": "c", "rejected": "r"}""");
        Assert.Equal("r", ((AlpacaContent)alpaca.Rejected).Output);
        foreach (string row in (string[])
        [
            """{"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}}""",
            """{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}]}""",
            """{"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]}""",
            """{"prompt": "q", "chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}]}""",
            """{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]}""",
        ])
        {
            PreferenceContent preference = Preference(row);
            Assert.Equal("""[{"role":"user","content":"q"},{"role":"assistant","content":"good"}]""", ((ChatContent)preference.Chosen).Messages.ToJsonString());
            Assert.Equal("""[{"role":"user","content":"q"},{"role":"assistant","content":"bad"}]""", ((ChatContent)preference.Rejected).Messages.ToJsonString());
            Assert.Equal(1, ((ChatContent)preference.Rejected).PromptMessages);
        }
    }

    [Fact]
    public void Lists_in_csv_cells_are_json()
    {
        var row = new DatasetRow(new RowOrigin("a.csv", 2), new JsonObject { ["messages"] = """[{"role": "user", "content": "hi"}]""" });
        Assert.Single(((ChatContent)new RowParser().Parse(row)).Messages);
        var tokens = new DatasetRow(new RowOrigin("a.csv", 2), new JsonObject { ["input_ids"] = "[1, 2]" });
        Assert.Equal([1, 2], ((TokenizedContent)new RowParser().Parse(tokens)).InputIds);
    }

    [Theory]
    [InlineData("formats/alpaca_en_demo.json.gz", DatasetFormat.Alpaca, 999)]
    [InlineData("formats/dpo_en_demo.json.gz", DatasetFormat.Preference, 300)]
    [InlineData("formats/glaive_toolcall_en_demo.json.gz", DatasetFormat.Chat, 300)]
    [InlineData("instruct1100/alpaca.jsonl.gz", DatasetFormat.Alpaca, 1100)]
    [InlineData("instruct1100/preference.jsonl.gz", DatasetFormat.Preference, 1100)]
    [InlineData("e2e_nlg/train.jsonl.gz", DatasetFormat.PromptCompletion, 42061)]
    [InlineData("e2e_nlg/valid.jsonl.gz", DatasetFormat.PromptCompletion, 547)]
    [InlineData("e2e_nlg/test.jsonl.gz", DatasetFormat.PromptCompletion, 630)]
    [InlineData("gsm8k/train.jsonl.gz", DatasetFormat.PromptCompletion, 7473)]
    [InlineData("banking77/test.jsonl.gz", DatasetFormat.PromptCompletion, 3080)]
    [InlineData("snips/train.jsonl.gz", DatasetFormat.PromptCompletion, 13784)]
    [InlineData("wikisql/dev.jsonl.gz", DatasetFormat.PromptCompletion, 8421)]
    [InlineData("pretrain/books.txt.xz", DatasetFormat.Text, 20000)]
    public void Published_sets_load(string file, DatasetFormat format, int rows)
    {
        var parser = new RowParser();
        int count = 0;
        foreach (DatasetRow row in DatasetReader.Read(Fixtures.ReferenceOrSkip("data/" + file)).Take(rows + (format == DatasetFormat.Text ? 0 : 1)))
        {
            parser.Parse(row);
            count++;
        }

        Assert.Equal((format, rows), (parser.Schema!.Format, count));
    }

    private static PreferenceContent Preference(string row) => (PreferenceContent)new RowParser().Parse(Row(row));

    private static DatasetRow Row(string json, long line = 7) => new(new RowOrigin("rows.jsonl", line), (JsonObject)JsonNode.Parse(json)!);
}

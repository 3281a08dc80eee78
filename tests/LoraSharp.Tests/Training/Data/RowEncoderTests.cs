using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Training.Data;

namespace LoraSharp.Tests.Training.Data;

public sealed class RowEncoderTests
{
    private static readonly DataOptions Options = new() { Train = [new DataSource { Path = "x" }] };

    [Fact]
    public void Prompt_and_completion_are_masked_and_end()
    {
        TrainingExample example = One("""{"prompt": "ab", "completion": "cd"}""");
        Assert.Equal(['a', 'b', 'c', 'd', CharTokenizer.Eos], example.InputIds);
        Assert.Equal([-100, -100, 'c', 'd', CharTokenizer.Eos], example.Labels);
        Assert.Equal(3, example.TargetTokens);
        Assert.Equal("rows.jsonl:7", example.Origin);
    }

    [Fact]
    public void Bos_comes_first_where_the_tokenizer_adds_one()
    {
        TrainingExample example = One("""{"prompt": "a", "completion": "b"}""", addBos: true);
        Assert.Equal([CharTokenizer.Bos, 'a', 'b', CharTokenizer.Eos], example.InputIds);
        Assert.Equal([-100, -100, 'b', CharTokenizer.Eos], example.Labels);
        Assert.Equal([CharTokenizer.Bos, 'a', 'b', CharTokenizer.Eos], One("""{"text": "ab"}""", addBos: true).InputIds);
    }

    [Fact]
    public void Text_and_train_on_all_mask_nothing()
    {
        Assert.Equal(['a', 'b', CharTokenizer.Eos], One("""{"text": "ab"}""").Labels);
        Assert.Equal(['a', 'b', CharTokenizer.Eos], One("""{"prompt": "a", "completion": "b"}""", Options with { TrainOn = TrainOn.All }).Labels);
    }

    [Fact]
    public void Alpaca_is_put_into_the_words_of_stanford()
    {
        const string Head = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nDo\n\n### Input:\nx\n\n### Response:";
        Assert.Equal($"{Head}[y</s>]", Shown(One("""{"instruction": "Do", "input": "x", "output": "y"}""")));
        Assert.EndsWith("task. Write a response that appropriately completes the request.\n\n### Instruction:\nDo\n\n### Response:[y</s>]", Shown(One("""{"instruction": "Do", "input": "", "output": "y"}""")));
        Assert.Equal("<|im_start|>user\nDo\nx<|im_end|>\n<|im_start|>assistant\n[y<|im_end|>]\n", Shown(One("""{"instruction": "Do", "input": "x", "output": "y"}""", Options with { PromptStyle = PromptStyle.Chat })));
    }

    private const string Chat = """{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]}""";

    [Fact]
    public void Every_answer_of_a_chat_is_trained_with_its_end_but_not_the_white_space_after()
    {
        Assert.Equal("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n", Shown(One(Chat)));
        Assert.EndsWith("assistant\na<|im_end|>\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n", Shown(One(Chat, Options with { TrainOn = TrainOn.Completions })));
        Assert.StartsWith("[<|im_start|>system\n", Shown(One(Chat, Options with { TrainOn = TrainOn.All })));
    }

    [Fact]
    public void Marks_of_the_template_win()
    {
        // Marks the contents alone.
        (string, IReadOnlyList<(int, int)>) Marking(JsonArray messages, bool generate, JsonObject? variables)
        {
            string text = ChatMl(messages, generate, variables).Text;
            List<(int, int)> spans = [];
            foreach (string content in messages.Where(m => (string)m!["role"]! == "assistant").Select(m => (string)m!["content"]!))
            {
                int at = text.IndexOf("assistant\n" + content, StringComparison.Ordinal) + 10;
                spans.Add((at, at + content.Length));
            }

            return (text, spans);
        }

        Assert.EndsWith("assistant\n[a]<|im_end|>\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[b]<|im_end|>\n", Shown(One(Chat, renderer: Marking)));
    }

    [Fact]
    public void Messages_say_what_they_weigh()
    {
        TrainingExample example = One("""{"messages": [{"role": "user", "content": "q", "train": true}, {"role": "assistant", "content": "a", "train": false}, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b", "weight": 0.25}]}""");
        Assert.Equal("[<|im_start|>user\nq<|im_end|>]\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n", Shown(example));
        Assert.Equal([1f, 0.25f], example.Weights!.Where(w => w > 0).Distinct());
        Assert.Equal("[<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n]a<|im_end|>\n", Shown(One("""{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}""", Options with { TrainOn = TrainOn.All })).Replace("<|im_end|>[\n]", "<|im_end|>\n"));
    }

    [Fact]
    public void A_turn_shown_with_thoughts_only_when_last_is_found_all_the_same()
    {
        // As Qwen3's template: an empty block of thoughts before the answer when the message is the last one.
        (string, IReadOnlyList<(int, int)>) Thinking(JsonArray messages, bool generate, JsonObject? variables)
        {
            var text = new StringBuilder();
            for (int i = 0; i < messages.Count; i++)
            {
                bool thinks = i == messages.Count - 1 && (string)messages[i]!["role"]! == "assistant";
                text.Append($"<|im_start|>{messages[i]!["role"]}\n{(thinks ? "<think>\n\n</think>\n\n" : "")}{messages[i]!["content"]}<|im_end|>\n");
            }

            return (text.Append(generate ? "<|im_start|>assistant\n" : "").ToString(), []);
        }

        Assert.Equal("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\nb<|im_end|>]\n", Shown(One(Chat, renderer: Thinking)));

        // With thinking off the opening promises thoughts that earlier turns do not show.
        (string, IReadOnlyList<(int, int)>) Off(JsonArray messages, bool generate, JsonObject? variables) => (Thinking(messages, false, variables).Item1 + (generate ? "<|im_start|>assistant\n<think>\n\n</think>\n\n" : ""), []);
        Assert.Equal("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n[b<|im_end|>]\n", Shown(One(Chat, renderer: Off)));
    }

    [Fact]
    public void A_template_that_rewrites_the_beginning_is_refused_rather_than_guessed_at()
    {
        (string, IReadOnlyList<(int, int)>) Counting(JsonArray messages, bool generate, JsonObject? variables) => ($"{messages.Count} messages\n" + ChatMl(messages, generate, variables).Text, []);
        string message = Assert.Throws<DatasetException>(() => One(Chat, renderer: Counting)).Message;
        Assert.StartsWith("rows.jsonl:7: message 2 (assistant) can't be found", message);
        Assert.Contains("{% generation %}", message);
    }

    [Fact]
    public void Tool_calls_are_said_as_text_where_the_template_does_not_know_them()
    {
        EncodedRow row = Encode("""{"tools": "[{\"name\": \"f\"}]", "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"}, {"from": "observation", "value": "2"}, {"from": "gpt", "value": "b"}]}""");
        Assert.Equal("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[{\"name\":\"f\",\"arguments\":{\"a\":1}}<|im_end|>]\n<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n", Shown(row.Examples[0]));
        Assert.Equal(2, row.Notes!.Count);
    }

    [Fact]
    public void Long_rows_are_cut_dropped_or_split()
    {
        const string Row = """{"prompt": "abc", "completion": "defgh"}""";
        EncodedRow cut = Encode(Row, Options with { MaxLength = 5 });
        Assert.Equal(("abc[de]", 4), (Shown(cut.Examples[0]), cut.CutTokens));
        EncodedRow nothing = Encode(Row, Options with { MaxLength = 3 });
        Assert.Empty(nothing.Examples);
        Assert.Contains("within max_length (3 tokens)", nothing.Dropped);
        Assert.Contains("longer than max_length", Encode(Row, Options with { MaxLength = 5, LongRows = LongRows.Drop }).Dropped);
        Assert.Equal(["[ab]", "[cd]", "[e</s>]"], Encode("""{"text": "abcde"}""", Options with { MaxLength = 2, LongRows = LongRows.Split }).Examples.Select(Shown));
    }

    [Fact]
    public void Rows_that_teach_nothing_are_left_out()
    {
        Assert.Equal("the completion is empty", Encode("""{"prompt": "a", "completion": ""}""").Dropped);
        Assert.Equal("the completion is empty", Encode("""{"prompt": "a", "completion": " \n"}""").Dropped);
        Assert.Equal("the assistant's message is empty", Encode("""{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}""").Dropped);
        Assert.Equal("the completion is empty", Encode("""{"prompt": "a", "chosen": "b", "rejected": ""}""").Dropped);
        Assert.Equal("the text is empty", Encode("""{"text": " "}""").Dropped);
        Assert.Equal("no message is trained on", Encode("""{"messages": [{"role": "user", "content": "q"}]}""").Dropped);
    }

    [Fact]
    public void An_empty_answer_among_others_and_a_role_that_no_template_knows_are_noted()
    {
        EncodedRow empty = Encode("""{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]}""");
        Assert.Contains("is empty", Assert.Single(empty.Notes!), StringComparison.Ordinal);
        EncodedRow calls = Encode("""{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]}""");
        Assert.Null(calls.Dropped);
        EncodedRow critic = Encode("""{"messages": [{"role": "critic", "content": "q"}, {"role": "assistant", "content": "b"}]}""");
        Assert.Contains("the role 'critic' is none of those", Assert.Single(critic.Notes!), StringComparison.Ordinal);
    }

    [Fact]
    public void Tokenized_rows_are_kept_exactly()
    {
        TrainingExample example = One("""{"input_ids": [5, 6, 7, 0, 0], "labels": [-100, 6, 7, -100, -100], "attention_mask": [1, 1, 1, 0, 0]}""");
        Assert.Equal([5, 6, 7, 0, 0], example.InputIds);
        Assert.Equal([-100, 6, 7, -100, -100], example.Labels);
        Assert.Equal([true, true, true, false, false], example.Attended!);
        TrainingExample unlabelled = One("""{"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0]}""");
        Assert.Equal([5, 6, -100], unlabelled.Labels);
        Assert.Single(Encode("""{"input_ids": [5, 6], "labels": [-100, -100]}""").Examples);
        Assert.Equal([5, 6], One("""{"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0]}""", Options with { TrimPadding = true }).InputIds);
        var parser = new RowParser();
        DatasetRow row = Row("""{"input_ids": [5, 6]}""");
        Assert.Single(new RowEncoder(null, null, Options).Encode(row, parser.Parse(row)).Examples);
    }

    [Fact]
    public void Preferences_give_pairs_with_one_prompt()
    {
        EncodedRow row = Encode("""{"prompt": "p", "chosen": "c", "rejected": "r"}""");
        Assert.Equal(["p[c</s>]", "p[r</s>]"], row.Examples.Select(Shown));
        EncodedRow chat = Encode("""{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "x"}, {"from": "human", "value": "r"}], "chosen": {"from": "gpt", "value": "c"}, "rejected": {"from": "gpt", "value": "d"}}""");
        Assert.EndsWith("assistant\nx<|im_end|>\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[d<|im_end|>]\n", Shown(chat.Examples[1]));
        EncodedRow kto = Encode("""{"prompt": "p", "completion": "c", "label": true}""");
        Assert.True(kto.Desirable);
    }

    [Fact]
    public void Prompts_for_generation_end_where_the_answer_begins()
    {
        Assert.Equal("p", Prompt("""{"prompt": "p", "references": ["a", "b"]}""", out IReadOnlyList<string> references));
        Assert.Equal(["a", "b"], references);
        Assert.EndsWith("<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n", Prompt(Chat, out references));
        Assert.Equal(["b"], references);
        Assert.EndsWith("### Response:", Prompt("""{"instruction": "Do", "output": "y"}""", out _));
    }

    [Fact]
    public void Text_without_tokenizer_and_chat_without_template_are_explained()
    {
        DatasetRow row = Row("""{"text": "a"}""");
        Assert.Contains("no tokenizer", Assert.Throws<DatasetException>(() => new RowEncoder(null, null, Options).Encode(row, new RowParser().Parse(row))).Message);
        DatasetRow chat = Row(Chat);
        Assert.Contains("no chat template", Assert.Throws<DatasetException>(() => new RowEncoder(new CharTokenizer(), null, Options).Encode(chat, new RowParser().Parse(chat))).Message);
        (string, IReadOnlyList<(int, int)>) Refusing(JsonArray messages, bool generate, JsonObject? variables) => throw new LoraSharpException("no system role, please");
        Assert.Contains("no system role, please", Assert.Throws<DatasetException>(() => One(Chat, renderer: Refusing)).Message);
    }

    internal static (string Text, IReadOnlyList<(int, int)> Spans) ChatMl(JsonArray messages, bool generate, JsonObject? variables) =>
        (string.Concat(messages.Select(m => $"<|im_start|>{m!["role"]}\n{m["content"]}<|im_end|>\n")) + (generate ? "<|im_start|>assistant\n" : ""), []);

    // The trained stretches in brackets.
    internal static string Shown(TrainingExample example)
    {
        var tokenizer = new CharTokenizer();
        var text = new StringBuilder();
        bool trained = false;
        for (int i = 0; i < example.InputIds.Length; i++)
        {
            bool now = example.Labels[i] != TrainingExample.Ignored;
            text.Append(now == trained ? "" : now ? "[" : "]").Append(tokenizer.IdToToken(example.InputIds[i]));
            Assert.True(!now || example.Labels[i] == example.InputIds[i]);
            trained = now;
        }

        return text.Append(trained ? "]" : "").ToString();
    }

    private static string Prompt(string json, out IReadOnlyList<string> references)
    {
        DatasetRow row = Row(json);
        (int[] ids, references) = new RowEncoder(new CharTokenizer(), ChatMl, Options).EncodePrompt(row, new RowParser().Parse(row));
        return new CharTokenizer().Decode(ids);
    }

    private static TrainingExample One(string json, DataOptions? options = null, bool addBos = false, ChatRenderer? renderer = null) => Assert.Single(Encode(json, options, addBos, renderer).Examples);

    private static EncodedRow Encode(string json, DataOptions? options = null, bool addBos = false, ChatRenderer? renderer = null)
    {
        DatasetRow row = Row(json);
        return new RowEncoder(new CharTokenizer(addBos), renderer ?? ChatMl, options ?? Options).Encode(row, new RowParser().Parse(row));
    }

    private static DatasetRow Row(string json) => new(new RowOrigin("rows.jsonl", 7), (JsonObject)JsonNode.Parse(json)!);
}

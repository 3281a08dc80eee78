using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Cli.Tests;

/// <summary><c>lora tokenize</c> as scripts call it.</summary>
public sealed class TokenizeCommandTests
{
    [Fact]
    public async Task TextsAndChatsAreAsTransformersHasThem()
    {
        string folder = Fixtures.Path("tokenizers/tiny-base");
        JsonObject golden = JsonFile.ReadObject(Fixtures.Path("tokenizers/tiny-base/golden.json"));
        JsonObject[] texts = [.. golden["encodings"]!.AsArray().Select(entry => entry!.AsObject())];
        JsonObject[] chats = [.. golden["chats"]!.AsArray().Select(entry => entry!.AsObject())];
        IEnumerable<JsonObject> rows = texts.Select(entry => new JsonObject { ["text"] = entry["text"]!.DeepClone() })
            .Concat(chats.Select(entry => new JsonObject { ["messages"] = entry["messages"]!.DeepClone(), ["add_generation_prompt"] = entry["add_generation_prompt"]!.DeepClone() }));
        (CommandRun run, JsonObject[] written) = await TokenizeAsync(folder, rows.Select(row => row.ToJsonString()));

        Assert.Equal("", run.Error);
        Assert.Equal(0, run.ExitCode);
        Assert.Equal(texts.Length + chats.Length, written.Length);
        for (int i = 0; i < texts.Length; i++)
        {
            Assert.Equal(texts[i]["ids"]!.ToJsonString(), written[i]["ids"]!.ToJsonString());
            Assert.Equal(texts[i]["ids"]!.ToJsonString(), written[i]["ids_with_special"]!.ToJsonString());
            Assert.Equal((string)texts[i]["text"]!, (string)written[i]["decoded"]!);
        }

        for (int i = 0; i < chats.Length; i++)
        {
            Assert.Equal((string)chats[i]["text"]!, (string)written[texts.Length + i]["text"]!);
            Assert.Equal(chats[i]["ids"]!.ToJsonString(), written[texts.Length + i]["ids"]!.ToJsonString());
        }
    }

    [Theory]
    [InlineData("smollm2", "models/smollm2-135m-instruct")]
    [InlineData("qwen3", "tokenizers-npm/qwen3")]
    [InlineData("llama3_1", "tokenizers-npm/llama3_1")]
    public async Task ChatsOfRealModelsAreAsTransformersHasThem(string name, string folder)
    {
        JsonObject[] chats = [.. JsonFile.ReadObject(Fixtures.ReferenceOrSkip($"fixtures/tokenizers/{name}.golden.json"))["chats"]!.AsArray().Select(entry => entry!.AsObject())];
        (_, JsonObject[] written) = await TokenizeAsync(Fixtures.ReferenceOrSkip(folder), chats.Select(Row));
        Assert.NotEmpty(chats);
        for (int i = 0; i < chats.Length; i++)
        {
            // A rendered date is today's; the golden files have the day they were made.
            if (chats[i]["text"] is { } text && !((string)text!).Contains("Today Date", StringComparison.Ordinal))
            {
                Assert.Equal((string)text!, (string?)written[i]["text"]);
                Assert.NotEmpty(written[i]["ids"]!.AsArray());
            }

            Assert.Equal(chats[i]["error"] is not null, written[i]["error"] is not null);
        }
    }

    [Theory]
    [InlineData("{\"text\": \"a\"", "line 2 is not valid JSON")]
    [InlineData("[1]", "line 2 is no JSON object")]
    [InlineData("{\"prompt\": \"a\"}", "Found prompt")]
    public async Task BadRowsAreNamedAndNothingIsWritten(string row, string expected)
    {
        (CommandRun run, JsonObject[] written) = await TokenizeAsync(Fixtures.Path("tokenizers/tiny-base"), ["{\"text\": \"fine\"}", row]);
        Assert.Equal(1, run.ExitCode);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
        Assert.Empty(written);
    }

    private static string Row(JsonObject chat)
    {
        var row = new JsonObject { ["messages"] = chat["messages"]!.DeepClone(), ["add_generation_prompt"] = chat["add_generation_prompt"]!.DeepClone() };
        foreach ((string name, JsonNode? value) in chat["arguments"]?.AsObject() ?? [])
        {
            row[name] = value?.DeepClone();
        }

        return row.ToJsonString();
    }

    private static async Task<(CommandRun Run, JsonObject[] Rows)> TokenizeAsync(string model, IEnumerable<string> rows)
    {
        string folder = Directory.CreateTempSubdirectory("lora-tokenize").FullName;
        try
        {
            string input = System.IO.Path.Combine(folder, "in.jsonl"), output = System.IO.Path.Combine(folder, "out.jsonl");
            await File.WriteAllLinesAsync(input, rows, TestContext.Current.CancellationToken);
            CommandRun run = await CommandRun.OfAsync("tokenize", "--model", model, "--input", input, "--output", output);
            return (run, File.Exists(output) ? [.. File.ReadLines(output).Select(line => JsonSerializer.Deserialize<JsonObject>(line)!)] : []);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}

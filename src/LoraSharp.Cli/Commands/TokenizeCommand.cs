using System.CommandLine;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Hub;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora tokenize</c>: what the model's tokenizer and chat template make of rows, for comparison with other implementations.</summary>
internal static class TokenizeCommand
{
    // Readable: other scripts are written as they are, not as \u escapes.
    private static readonly JsonSerializerOptions Readable = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    internal static Command Create()
    {
        Option<string> model = CommonOptions.Model();
        var input = new Option<string>("--input") { Description = "JSON lines: {\"text\": ...} or {\"messages\": [...], \"add_generation_prompt\": ..., template variables}.", Required = true, HelpName = "F.jsonl" };
        var output = new Option<string>("--output") { Description = "JSON lines to write, one for each line read.", Required = true, HelpName = "O.jsonl" };
        var command = new Command("tokenize", "Write the token ids of texts and chats.\nExample: lora tokenize --model ./llama --input rows.jsonl --output ids.jsonl")
        {
            model, input, output,
        };
        command.SetAction(result => Run(result.GetValue(model)!, result.GetValue(input)!, result.GetValue(output)!));
        return command;
    }

    private static void Run(string model, string input, string output)
    {
        if (!File.Exists(input))
        {
            throw new MalformedFileException(input, "there is no such file. Expected JSON lines with \"text\" or \"messages\".");
        }

        TextOfModel parts = TextOfModel.Open(model);
        AtomicFile.Write(output, stream =>
        {
            using var writer = new StreamWriter(stream, new UTF8Encoding(false), leaveOpen: true);
            int number = 0;
            foreach (string line in File.ReadLines(input))
            {
                number++;
                if (!string.IsNullOrWhiteSpace(line))
                {
                    writer.Write(Row(Parse(line, input, number), parts, $"{input}:{number}").ToJsonString(Readable));
                    writer.Write('\n');
                }
            }
        });
    }

    private static JsonObject Parse(string line, string file, int number)
    {
        try
        {
            return StrictJson.Parse(line) as JsonObject ?? throw new MalformedFileException(file, $"line {number} is no JSON object.");
        }
        catch (JsonException error)
        {
            throw new MalformedFileException(file, $"line {number} is not valid JSON: {error.Message}", error);
        }
    }

    private static JsonObject Row(JsonObject row, TextOfModel parts, string place)
    {
        if (row["text"] is JsonValue value && value.TryGetValue(out string? text))
        {
            int[] ids = parts.Tokenizer.Encode(text, addSpecialTokens: false);
            return new JsonObject
            {
                ["ids"] = Numbers(ids),
                ["ids_with_special"] = Numbers(parts.Tokenizer.Encode(text)),
                ["decoded"] = parts.Tokenizer.Decode(ids),
            };
        }

        if (row["messages"] is not JsonArray messages)
        {
            throw new LoraSharpException($"{place}: the row has neither a \"text\" nor a list \"messages\". Found {string.Join(", ", row.Select(field => field.Key))}.");
        }

        try
        {
            ChatTemplate template = parts.Template.Value
                ?? throw new LoraSharpException($"{place}: the row has messages, but the model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json).");
            bool prompt = row["add_generation_prompt"] is JsonValue flag && flag.TryGetValue(out bool wanted) && wanted;
            string rendered = template.Render(messages, prompt, Variables(row)).Text;
            return new JsonObject { ["text"] = rendered, ["ids"] = Numbers(parts.Tokenizer.Encode(rendered, addSpecialTokens: false)) };
        }
        catch (ChatTemplateException error)
        {
            return new JsonObject { ["error"] = error.Reason };
        }
    }

    private static JsonObject Variables(JsonObject row)
    {
        var variables = new JsonObject();
        foreach ((string name, JsonNode? value) in row)
        {
            if (name is not ("messages" or "add_generation_prompt"))
            {
                variables[name] = value?.DeepClone();
            }
        }

        return variables;
    }

    private static JsonArray Numbers(int[] ids) => new([.. ids.Select(id => (JsonNode)id)]);

    /// <summary>Tokenizer and chat template of a model; no weights are touched.</summary>
    private sealed record TextOfModel(Tokenizer Tokenizer, Lazy<ChatTemplate?> Template)
    {
        public static TextOfModel Open(string model)
        {
            model = HubCache.FromEnvironment().Locate(model);
            if (model.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) && File.Exists(model))
            {
                return FromGguf(model);
            }

            return new TextOfModel(TokenizerLoader.FromFolder(model), new Lazy<ChatTemplate?>(() => ChatTemplate.FromFolder(model)));
        }

        private static TextOfModel FromGguf(string path)
        {
            using GgufCheckpoint file = GgufCheckpoint.Open(path);
            JsonObject json = file.TokenizerJson() ?? throw new MalformedFileException(path, "the file carries no tokenizer (tokenizer.ggml.model).");
            JsonObject config = file.TokenizerConfig() ?? [];
            string? source = file.ChatTemplate;
            string? bos = (string?)config["bos_token"], eos = (string?)config["eos_token"], pad = (string?)config["pad_token"];
            Tokenizer tokenizer = TokenizerLoader.FromTokenizerJson(JsonSerializer.SerializeToUtf8Bytes(json), bos, eos, pad, path);
            return new TextOfModel(tokenizer, new Lazy<ChatTemplate?>(() => source is null ? null : ChatTemplate.Parse(source, bos, eos)));
        }
    }
}

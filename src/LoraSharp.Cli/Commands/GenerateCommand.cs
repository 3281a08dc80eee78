using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora generate</c>.</summary>
internal static class GenerateCommand
{
    public static Command Create()
    {
        var prompt = new Option<string>("--prompt") { Description = "The text to continue, taken as it is; - reads standard input.", Required = true, HelpName = "TEXT" };
        var chat = new Option<bool>("--chat") { Description = "Treat the prompt as a user's message and render it with the model's chat template." };
        var system = new Option<string?>("--system") { Description = "With --chat: the system message.", HelpName = "TEXT" };
        var schema = new Option<string?>("--json-schema") { Description = "The text is JSON that satisfies the schema in this file (draft 2020-12).", HelpName = "FILE" };
        var regex = new Option<string?>("--regex") { Description = "The text matches this regular expression from its beginning to its end.", HelpName = "EXPRESSION" };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("generate", "Continue a prompt.\nExample: lora generate --model HuggingFaceTB/SmolLM2-135M-Instruct --adapter runs/my-adapter --prompt \"The river\" --max-tokens 40 --temperature 0") { prompt, chat, system, schema, regex, json };
        var engine = new EngineInputs(command);
        var sampling = new SamplingInputs(command);
        command.SetAction((parsed, cancellation) => Task.FromResult(Run(parsed, cancellation)));
        return command;

        int Run(ParseResult parsed, CancellationToken cancellation)
        {
            string text = parsed.GetValue(prompt)!;
            text = text == "-" ? Console.In.ReadToEnd() : text;
            using LoadedModel loaded = engine.Load(parsed);
            Tokenizer tokenizer = loaded.Tokenizer;
            int[] ids = parsed.GetValue(chat) ? Render(loaded, tokenizer, parsed.GetValue(system), text) : tokenizer.Encode(text);
            GenerationConfig defaults = loaded.Generation;
            if (ids.Length == 0 && (tokenizer.BosTokenId ?? defaults.BosTokenId) is { } bos)
            {
                ids = [bos];
            }

            bool asJson = parsed.GetValue(json);
            GeneratedText result = new TextGenerator(loaded.Model, tokenizer).Generate(
                ids,
                Constrain(sampling.Read(parsed, defaults), loaded, parsed.GetValue(schema), parsed.GetValue(regex)),
                asJson ? null : (_, piece) => Console.Out.Write(piece),
                cancellation);
            if (asJson)
            {
                CommandJson.Write(new
                {
                    result.Text,
                    result.TokenIds,
                    FinishReason = result.FinishReason == FinishReason.Stop ? "stop" : "length",
                    result.PromptTokens,
                });
            }
            else
            {
                Console.Out.WriteLine();
            }

            return 0;
        }
    }

    private static GenerationOptions Constrain(GenerationOptions options, LoadedModel loaded, string? schema, string? regex)
    {
        if (schema is not null && regex is not null)
        {
            throw new LoraSharpException("--json-schema and --regex are both given. Give one.");
        }

        TokenConstraint? constraint = schema is not null ? loaded.Constraints.Json(ReadSchema(schema)) : regex is not null ? loaded.Constraints.Regex(regex) : null;
        return options with { Sampling = options.Sampling with { Constraint = constraint } };
    }

    private static JsonNode ReadSchema(string path)
    {
        if (!File.Exists(path))
        {
            throw new LoraSharpException($"--json-schema {path}: there is no such file.");
        }

        try
        {
            return StrictJson.Parse(File.ReadAllText(path)) ?? throw new MalformedFileException(path, "expected a JSON schema, found null.");
        }
        catch (JsonException error)
        {
            throw new MalformedFileException(path, $"is not valid JSON: {error.Message}", error);
        }
    }

    private static int[] Render(LoadedModel loaded, Tokenizer tokenizer, string? system, string text)
    {
        ChatTemplate template = loaded.ChatTemplate ?? throw new LoraSharpException($"{loaded.Source.Location}: the model has no chat template. Leave out --chat to continue the prompt as it is.");
        JsonArray messages = [];
        if (system is not null)
        {
            messages.Add(new JsonObject { ["role"] = "system", ["content"] = system });
        }

        messages.Add(new JsonObject { ["role"] = "user", ["content"] = text });

        // The template writes the special tokens itself.
        return tokenizer.Encode(template.Render(messages, addGenerationPrompt: true).Text, addSpecialTokens: false);
    }
}

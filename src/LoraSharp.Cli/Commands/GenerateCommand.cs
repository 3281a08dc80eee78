using System.CommandLine;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora generate</c>.</summary>
internal static class GenerateCommand
{
    public static Command Create()
    {
        var prompt = new Option<string>("--prompt") { Description = "The text to continue, taken as it is; - reads standard input.", Required = true, HelpName = "TEXT" };
        var chat = new Option<bool>("--chat") { Description = "Treat the prompt as a user's message and render it with the model's chat template." };
        var system = new Option<string?>("--system") { Description = "With --chat: the system message.", HelpName = "TEXT" };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("generate", "Continue a prompt.\nExample: lora generate --model SmolLM2-135M --adapter runs/my-adapter --prompt \"The river\" --max-tokens 40 --temperature 0") { prompt, chat, system, json };
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
                sampling.Read(parsed, defaults),
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

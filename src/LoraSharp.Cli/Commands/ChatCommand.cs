using System.CommandLine;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora chat</c>.</summary>
internal static class ChatCommand
{
    public static Command Create()
    {
        var system = new Option<string?>("--system") { Description = "The system message.", HelpName = "TEXT" };
        var command = new Command("chat", "Talk with a model through its chat template. /reset forgets the conversation, /exit ends it, Ctrl+C ends an answer.\nExample: lora chat --model HuggingFaceTB/SmolLM2-135M-Instruct --adapter runs/my-adapter") { system };
        var engine = new EngineInputs(command);
        var sampling = new SamplingInputs(command);
        command.SetAction(parsed =>
        {
            using LoadedModel loaded = engine.Load(parsed);
            ChatTemplate template = loaded.ChatTemplate ?? throw new LoraSharpException($"{loaded.Source.Location}: the model has no chat template. Use lora generate.");
            return new Conversation(loaded, template, sampling.Read(parsed, loaded.Generation), parsed.GetValue(system)).Run();
        });
        return command;
    }

    private sealed class Conversation(LoadedModel loaded, ChatTemplate template, GenerationOptions options, string? system)
    {
        private readonly JsonArray _messages = [];
        private readonly Tokenizer _tokenizer = loaded.Tokenizer;

        public int Run()
        {
            Reset();
            if (!Console.IsInputRedirected)
            {
                Console.Out.WriteLine("/reset forgets the conversation, /exit ends it.");
            }

            while (ReadLine() is { } line)
            {
                switch (line.Trim())
                {
                    case "":
                        break;
                    case "/exit" or "/quit":
                        return 0;
                    case "/reset":
                        Reset();
                        Console.Out.WriteLine("(forgotten)");
                        break;
                    default:
                        Answer(line);
                        break;
                }
            }

            return 0;
        }

        private static string? ReadLine()
        {
            if (!Console.IsInputRedirected)
            {
                Console.Out.Write("> ");
            }

            return Console.In.ReadLine();
        }

        private void Reset()
        {
            _messages.Clear();
            if (system is not null)
            {
                Say("system", system);
            }
        }

        private void Say(string role, string content) => _messages.Add(new JsonObject { ["role"] = role, ["content"] = content });

        private void Answer(string question)
        {
            Say("user", question);
            int[] prompt = _tokenizer.Encode(template.Render(_messages, addGenerationPrompt: true).Text, addSpecialTokens: false);
            var answer = new System.Text.StringBuilder();
            using var cancellation = new CancellationTokenSource();
            void Stop(object? sender, ConsoleCancelEventArgs e)
            {
                e.Cancel = true;
                cancellation.Cancel();
            }

            Console.CancelKeyPress += Stop;
            try
            {
                new TextGenerator(loaded.Model, _tokenizer).Generate(
                    prompt,
                    options,
                    (_, piece) =>
                    {
                        answer.Append(piece);
                        Console.Out.Write(piece);
                    },
                    cancellation.Token);
            }
            catch (OperationCanceledException)
            {
                // What was said so far stays part of the conversation.
            }
            finally
            {
                Console.CancelKeyPress -= Stop;
            }

            Console.Out.WriteLine();
            Say("assistant", answer.ToString());
        }
    }
}

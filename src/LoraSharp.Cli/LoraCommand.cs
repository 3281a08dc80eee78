using System.CommandLine;
using System.CommandLine.Invocation;
using System.CommandLine.Parsing;
using System.Globalization;
using LoraSharp.Cli.Commands;
using LoraSharp.Formats;

namespace LoraSharp.Cli;

/// <summary>The <c>lora</c> command: its subcommands and what happens to errors.</summary>
internal static class LoraCommand
{
    /// <summary>Runs a command line.</summary>
    /// <returns>0 on success, 1 on a failure that was explained on standard error, 2 on wrong usage.</returns>
    public static async Task<int> RunAsync(string[] args)
    {
        // What a command prints is read by scripts and pasted into recipes: 0.5 is 0.5 on every machine. The setting ends with this call.
        CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
        RootCommand root = Create();
        ParseResult result = root.Parse(args);
        if (result.CommandResult.Command.Subcommands.Count > 0 && result.Tokens.All(token => token.Type == TokenType.Command))
        {
            // Whoever types only a group's name asks what there is.
            await root.Parse([.. args, "--help"]).InvokeAsync();
            return 2;
        }

        if (result.Errors.Count > 0)
        {
            foreach (string message in UsageErrors(result))
            {
                await Console.Error.WriteLineAsync($"error: {message}");
            }

            await Console.Error.WriteLineAsync($"Try: {CommandPath(result)} --help");
            return 2;
        }

        try
        {
            await HubModels.EnsureAsync(result);
            Command command = result.CommandResult.Command;
            var invocation = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null };

            // A server's host listens for the signals itself. Commands that take no token write their files in one go at the end: they may be ended at any moment.
            using Interruption? interruption = command.Action is AsynchronousCommandLineAction && command.Name != ServeCommand.Name ? new Interruption() : null;
            return await result.InvokeAsync(invocation, interruption?.Token ?? CancellationToken.None);
        }
        catch (LoraSharpException error)
        {
            await Console.Error.WriteLineAsync($"error: {error.Message}");
            return 1;
        }
        catch (OperationCanceledException)
        {
            await Console.Error.WriteLineAsync("error: cancelled.");
            return 1;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            await Console.Error.WriteLineAsync($"error: {error.Message}");
            return 1;
        }
        catch (Exception error) when (error is not OutOfMemoryException)
        {
            // A fault of ours: told whole, since it can only be reported, but with the exit code that scripts know.
            await Console.Error.WriteLineAsync($"error: {error.Message}\nThis is a fault of LoraSharp. Please report it with the command and these lines:\n{error}");
            return 1;
        }
    }

    internal static RootCommand Create()
    {
        var root = new RootCommand("Fine-tune language models with LoRA, merge adapters, and serve many of them over one base model.");
        foreach (Command command in All())
        {
            root.Add(command);
        }

        return root;
    }

    // One line a command, in the order of the help text. Each lives in a file of its own in Commands/.
    private static IEnumerable<Command> All()
    {
        yield return QuickstartCommand.Create();
        yield return TrainCommand.Create();
        yield return SweepCommand.Create();
        yield return DataCommand.Create();
        yield return EvalCommand.Create();
        yield return GenerateCommand.Create();
        yield return ChatCommand.Create();
        yield return ServeCommand.Create();
        yield return MergeCommand.Create();
        yield return CombineCommand.Create();
        yield return ExtractCommand.Create();
        yield return ConvertCommand.Create();
        yield return InspectCommand.Create();
        yield return QuantizeCommand.Create();
        yield return ExportCommand.Create();
        yield return ImportCommand.Create();
        yield return PullCommand.Create();
        yield return PushCommand.Create();
        yield return DoctorCommand.Create();
        yield return TokenizeCommand.Create();
        yield return LogitsCommand.Create();
    }

    private static IEnumerable<string> UsageErrors(ParseResult result)
    {
        // A mistyped command is one mistake, not the two that the parser reports.
        if (result.CommandResult.Command is { Subcommands.Count: > 0 } parent && result.UnmatchedTokens is [{ } word, ..] && !word.StartsWith('-'))
        {
            string[] known = [.. parent.Subcommands.Select(c => c.Name)];
            return [$"there is no command '{word}'. {(NearestWord.Find(word, known) is { } near ? $"Did you mean {near}?" : $"Commands: {string.Join(", ", known)}.")}"];
        }

        // A mistyped option, the value behind it and the required one that it was meant to be are one mistake too.
        string[] options = [.. result.CommandResult.Command.Options.Select(o => o.Name)];
        string[] mistyped = [.. result.UnmatchedTokens.Where(t => t.StartsWith("--", StringComparison.Ordinal))];
        return mistyped.Length > 0
            ? mistyped.Select(t => $"there is no option {t}. {(NearestWord.Find(t, options) is { } near ? $"Did you mean {near}?" : "")}".TrimEnd())
            : result.Errors.Select(error => error.Message);
    }

    private static string CommandPath(ParseResult result)
    {
        var names = new List<string>();
        for (SymbolResult? at = result.CommandResult; at is CommandResult { Command: not RootCommand } command; at = at.Parent)
        {
            names.Insert(0, command.Command.Name);
        }

        return string.Join(' ', names.Prepend("lora"));
    }
}

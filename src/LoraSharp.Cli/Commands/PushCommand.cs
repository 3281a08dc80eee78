using System.CommandLine;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Hub;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora push</c>: an adapter or a model to the hub.</summary>
internal static class PushCommand
{
    internal static Command Create()
    {
        var folder = new Argument<string>("FOLDER") { Description = "The folder that train or merge wrote." };
        var repository = new Argument<string>("REPO") { Description = "org/name[@branch]; the repository is created when it is not there." };
        var message = new Option<string>("--message") { Description = "The commit's message.", HelpName = "TEXT", DefaultValueFactory = _ => "Upload with LoraSharp" };
        var isPrivate = new Option<bool>("--private") { Description = "Make a new repository private." };
        var include = new Option<string[]>("--include") { Description = "Files to upload, instead of those at the top of the folder.", HelpName = "PATTERN", AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [] };
        var exclude = new Option<string[]>("--exclude") { Description = "Files to leave out.", HelpName = "PATTERN", AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [] };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("push", """
            Upload an adapter folder to the hub in one commit. Needs an access token with write permission in HF_TOKEN.
            Example: lora push runs/my-adapter me/my-adapter --private
            """)
        {
            folder, repository, message, isPrivate, include, exclude, json,
        };
        command.SetAction((result, cancellation) => RunAsync(
            result.GetValue(folder)!,
            HubName.Parse(result.GetValue(repository)!),
            result.GetValue(message)!,
            result.GetValue(isPrivate),
            new FileFilter(result.GetValue(include)!, result.GetValue(exclude)!),
            result.GetValue(json),
            cancellation));
        return command;
    }

    private static async Task<int> RunAsync(string folder, HubName name, string message, bool isPrivate, FileFilter filter, bool json, CancellationToken cancellation)
    {
        using var client = new HubClient(HubSettings.FromEnvironment());
        PushResult pushed = await TransferView.ShowAsync(quiet: json, progress => client.PushAsync(folder, name, message, isPrivate, filter, progress, cancellation));
        if (json)
        {
            Console.WriteLine(new JsonObject
            {
                ["repository"] = pushed.Repository,
                ["commit"] = pushed.Commit,
                ["url"] = pushed.Address,
                ["files"] = new JsonArray(pushed.Files.Select(file => (JsonNode?)file).ToArray()),
            }.ToJsonString());
        }
        else
        {
            Console.WriteLine(pushed.Address);
        }

        return 0;
    }
}

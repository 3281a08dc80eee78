using System.CommandLine;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Hub;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora pull</c>: a model or an adapter into the Hugging Face cache.</summary>
internal static class PullCommand
{
    internal static Command Create()
    {
        var repository = new Argument<string>("REPO") { Description = "org/name or org/name@revision (branch, tag or commit)." };
        var include = new Option<string[]>("--include") { Description = "Files to get, instead of what a model needs (safetensors, json, tokenizer, chat template): patterns such as '*q4_k_m.gguf'.", HelpName = "PATTERN", AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [] };
        var exclude = new Option<string[]>("--exclude") { Description = "Files to leave out.", HelpName = "PATTERN", AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => [] };
        var cache = new Option<string?>("--cache-dir") { Description = "The cache; default: HF_HUB_CACHE, or hub in HF_HOME, or ~/.cache/huggingface/hub.", HelpName = "DIR" };
        var parallel = new Option<int>("--parallel") { Description = "Files at once.", HelpName = "N", DefaultValueFactory = _ => 4 };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("pull", """
            Download a model or an adapter into the Hugging Face cache, where --model and --adapter find it by its name.
            An interrupted download goes on where it stopped. Token: HF_TOKEN or 'hf auth login'; mirror: HF_ENDPOINT; proxy: HTTPS_PROXY.
            Example: lora pull HuggingFaceTB/SmolLM2-135M-Instruct
            """)
        {
            repository, include, exclude, cache, parallel, json,
        };
        command.SetAction((result, cancellation) => RunAsync(
            HubName.Parse(result.GetValue(repository)!),
            new FileFilter(result.GetValue(include)!, result.GetValue(exclude)!),
            result.GetValue(cache),
            result.GetValue(parallel),
            result.GetValue(json),
            cancellation));
        return command;
    }

    private static async Task<int> RunAsync(HubName name, FileFilter filter, string? cache, int parallel, bool json, CancellationToken cancellation)
    {
        HubSettings settings = HubSettings.FromEnvironment();
        settings = cache is null ? settings : settings with { CacheFolder = Path.GetFullPath(cache) };
        using var client = new HubClient(settings);
        PullResult pulled = await TransferView.ShowAsync(quiet: json, progress => client.PullAsync(name, filter, progress, parallel, cancellation));
        if (json)
        {
            Console.WriteLine(new JsonObject
            {
                ["repository"] = name.Repository,
                ["revision"] = name.Revision,
                ["commit"] = pulled.Commit,
                ["folder"] = pulled.Folder,
                ["files"] = new JsonArray(pulled.Files.Select(file => (JsonNode?)file).ToArray()),
                ["bytes_downloaded"] = pulled.BytesDownloaded,
            }.ToJsonString());
        }
        else
        {
            Console.Error.WriteLine($"{name}: {pulled.Files.Count} files at commit {pulled.Commit[..8]}, {TransferView.Size(pulled.BytesDownloaded)} downloaded.");
            Console.WriteLine(pulled.Folder);
        }

        return 0;
    }
}

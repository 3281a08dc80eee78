using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Tests.Hub;

namespace LoraSharp.Cli.Tests;

public sealed class HubCommandTests : IAsyncLifetime
{
    private static readonly string[] Variables = ["HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"];

    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;
    private readonly Dictionary<string, string?> _before = Variables.ToDictionary(name => name, Environment.GetEnvironmentVariable);
    private FakeHub _hub = null!;

    public async ValueTask InitializeAsync()
    {
        _hub = await FakeHub.StartAsync();
        _hub.Files["config.json"] = "{}"u8.ToArray();
        _hub.Files["model.safetensors"] = new byte[50_000];
        Environment.SetEnvironmentVariable("HF_ENDPOINT", _hub.Address.AbsoluteUri);
        Environment.SetEnvironmentVariable("HF_HOME", _folder);
        Environment.SetEnvironmentVariable("HF_HUB_CACHE", null);
        Environment.SetEnvironmentVariable("HF_TOKEN", null);
        Environment.SetEnvironmentVariable("HF_HUB_OFFLINE", null);
    }

    public async ValueTask DisposeAsync()
    {
        foreach ((string name, string? value) in _before)
        {
            Environment.SetEnvironmentVariable(name, value);
        }

        await _hub.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task Pull_prints_the_folder_and_finds_it_offline_again()
    {
        CommandRun run = await CommandRun.OfAsync("pull", "org/model");
        Assert.Equal(0, run.ExitCode);
        string folder = run.Output.Trim();
        Assert.Equal(Path.Combine(_folder, "hub", "models--org--model", "snapshots", FakeHub.Commit), folder);
        Assert.True(File.Exists(Path.Combine(folder, "model.safetensors")));

        Environment.SetEnvironmentVariable("HF_HUB_OFFLINE", "1");
        CommandRun again = await CommandRun.OfAsync("pull", "org/model", "--json");
        Assert.Equal(folder, JsonNode.Parse(again.Output)!["folder"]!.GetValue<string>());
        CommandRun missing = await CommandRun.OfAsync("pull", "org/other");
        Assert.Equal(1, missing.ExitCode);
        Assert.Contains("There is: org/model", missing.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_mistyped_path_does_not_wait_for_a_hub_that_never_answers()
    {
        using var silent = new TcpListener(IPAddress.Loopback, 0);
        silent.Start();
        Environment.SetEnvironmentVariable("HF_ENDPOINT", $"http://127.0.0.1:{((IPEndPoint)silent.LocalEndpoint).Port}");
        var watch = Stopwatch.StartNew();

        CommandRun run = await CommandRun.OfAsync("generate", "--model", "runs/mine", "--prompt", "x");

        Assert.Equal(1, run.ExitCode);
        Assert.StartsWith("error: runs/mine: there is no such folder or file here", run.Error, StringComparison.Ordinal);
        Assert.InRange(watch.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(25));
    }

    [Fact]
    public async Task A_gated_model_says_what_to_do_and_a_bad_name_is_explained()
    {
        _hub.Gated = true;
        CommandRun run = await CommandRun.OfAsync("pull", "org/model");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("HF_TOKEN", run.Error, StringComparison.Ordinal);
        Assert.Equal(1, (await CommandRun.OfAsync("pull", "../x")).ExitCode);
        Assert.Equal(2, (await CommandRun.OfAsync("pull")).ExitCode);
    }

    [Fact]
    public async Task A_model_named_by_its_hub_name_is_downloaded_once_and_used()
    {
        _hub.Files.Clear();
        foreach (string path in Directory.GetFiles(Fixtures.Path("adapters/all_linear")))
        {
            _hub.Files[Path.GetFileName(path)] = File.ReadAllBytes(path);
        }

        CommandRun run = await CommandRun.OfAsync("merge", "--model", Fixtures.Path("models/llama"), "--adapter", "org/model=0.5", "--output", Path.Combine(_folder, "merged"), "--json");
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains("downloading", run.Error, StringComparison.Ordinal);
        _hub.Requests.Clear();
        run = await CommandRun.OfAsync("merge", "--model", Fixtures.Path("models/llama"), "--adapter", "org/model", "--output", Path.Combine(_folder, "again"), "--json");
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        Assert.Empty(_hub.Requests);

        run = await CommandRun.OfAsync("merge", "--model", "org/nothing", "--adapter", "org/model", "--output", Path.Combine(_folder, "third"));
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("no such folder or file here", run.Error, StringComparison.Ordinal);
        Environment.SetEnvironmentVariable("HF_HUB_OFFLINE", "1");
        run = await CommandRun.OfAsync("merge", "--model", "org/nothing", "--adapter", "org/model", "--output", Path.Combine(_folder, "third"));
        Assert.Contains("lora pull org/nothing", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Push_commits_an_adapter()
    {
        Environment.SetEnvironmentVariable("HF_TOKEN", "hf_x");
        CommandRun run = await CommandRun.OfAsync("push", Fixtures.Path("adapters/all_linear"), "org/model", "--json");
        Assert.Equal((0, string.Empty), (run.ExitCode, run.Error));
        Assert.Equal(FakeHub.Commit, JsonNode.Parse(run.Output)!["commit"]!.GetValue<string>());
        Assert.Contains(_hub.CommitLines, line => line["key"]!.ToString() == "lfsFile");
    }
}

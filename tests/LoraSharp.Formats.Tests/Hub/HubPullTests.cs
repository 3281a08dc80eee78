using System.Security.Cryptography;
using LoraSharp.Formats.Hub;

namespace LoraSharp.Formats.Tests.Hub;

public sealed class HubPullTests : IAsyncLifetime
{
    private static readonly HubName Name = new("org/model");

    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-hub-").FullName;
    private FakeHub _hub = null!;

    public async ValueTask InitializeAsync()
    {
        _hub = await FakeHub.StartAsync();
        _hub.Files["config.json"] = "{}"u8.ToArray();
        _hub.Files["model.safetensors"] = RandomNumberGenerator.GetBytes(300_000);
        _hub.Files["tokenizer.json"] = RandomNumberGenerator.GetBytes(5_000);
        _hub.Files["additional_chat_templates/tool_use.jinja"] = "x"u8.ToArray();
        _hub.Files["empty.txt"] = [];
        _hub.Files["pytorch_model.bin"] = RandomNumberGenerator.GetBytes(1_000);
        _hub.Files["onnx/model.onnx"] = RandomNumberGenerator.GetBytes(1_000);
        _hub.Files["original/consolidated.00.safetensors"] = RandomNumberGenerator.GetBytes(1_000);
    }

    public async ValueTask DisposeAsync()
    {
        await _hub.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task Pull_lays_out_the_cache_as_huggingface_hub_does()
    {
        PullResult result = await PullAsync();
        string repository = Path.Combine(_folder, "models--org--model");
        Assert.Equal(Path.Combine(repository, "snapshots", FakeHub.Commit), result.Folder);
        Assert.Equal(["additional_chat_templates/tool_use.jinja", "config.json", "empty.txt", "model.safetensors", "tokenizer.json"], result.Files.Order(StringComparer.Ordinal));
        foreach (string file in result.Files)
        {
            Assert.Equal(_hub.Files[file], File.ReadAllBytes(Path.Combine(result.Folder, file)));
        }

        Assert.Equal($"../../blobs/{FakeHub.Etag(_hub.Files["model.safetensors"])}", new FileInfo(Path.Combine(result.Folder, "model.safetensors")).LinkTarget);
        Assert.Equal($"../../../blobs/{FakeHub.Etag("x"u8.ToArray())}", new FileInfo(Path.Combine(result.Folder, "additional_chat_templates/tool_use.jinja")).LinkTarget);
        Assert.Equal(FakeHub.Commit, File.ReadAllText(Path.Combine(repository, "refs", "main")));
        Assert.True(File.Exists(Path.Combine(_folder, ".locks", "models--org--model", FakeHub.Etag(_hub.Files["config.json"]) + ".lock")));
        Assert.Empty(Directory.EnumerateFiles(_folder, "*.incomplete", SearchOption.AllDirectories));
        Assert.Equal(result.Folder, new HubCache(_folder).ResolveSnapshot("org/model"));
        Assert.Equal(result.Folder, new HubCache(_folder).ResolveSnapshot($"org/model@{FakeHub.Commit}"));
    }

    [Fact]
    public async Task A_second_pull_downloads_nothing()
    {
        await PullAsync();
        _hub.Requests.Clear();
        PullResult result = await PullAsync();
        Assert.Equal(0, result.BytesDownloaded);
        Assert.DoesNotContain(_hub.Requests, request => request.StartsWith("CDN", StringComparison.Ordinal) || request.StartsWith("GET /org", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_broken_connection_is_gone_on_with()
    {
        _hub.Drops.Enqueue(100_000);
        _hub.Drops.Enqueue(70_000);
        PullResult result = await PullAsync(new FileFilter(["model.safetensors"], []));
        Assert.Equal(300_000, result.BytesDownloaded);
        Assert.Equal(_hub.Files["model.safetensors"], File.ReadAllBytes(Path.Combine(result.Folder, "model.safetensors")));
        string[] ranges = _hub.Requests.Where(request => request.StartsWith("CDN", StringComparison.Ordinal)).Order(StringComparer.Ordinal).ToArray();
        Assert.Equal(["CDN GET model.safetensors ", "CDN GET model.safetensors bytes=100000-", "CDN GET model.safetensors bytes=170000-"], ranges);
    }

    [Fact]
    public async Task A_later_run_goes_on_where_an_earlier_one_stopped()
    {
        for (int i = 0; i < 10; i++)
        {
            _hub.Drops.Enqueue(i == 0 ? 120_000 : 0);
        }

        HubException error = await Assert.ThrowsAsync<HubException>(() => PullAsync(new FileFilter(["*.safetensors"], ["original/*"])));
        Assert.Equal(HubFault.Unreachable, error.Fault);
        Assert.Contains("goes on from there", error.Message, StringComparison.Ordinal);
        Assert.Null(new HubCache(_folder).ResolveSnapshot("org/model"));
        Assert.Equal(120_000, new FileInfo(Assert.Single(Directory.EnumerateFiles(_folder, "*.incomplete", SearchOption.AllDirectories))).Length);

        _hub.Drops.Clear();
        PullResult result = await PullAsync(new FileFilter(["model.safetensors"], []));
        Assert.Equal(180_000, result.BytesDownloaded);
        Assert.Equal(_hub.Files["model.safetensors"], File.ReadAllBytes(Path.Combine(result.Folder, "model.safetensors")));
    }

    [Fact]
    public async Task A_server_without_ranges_is_read_anew()
    {
        _hub.IgnoreRanges = true;
        _hub.Drops.Enqueue(100_000);
        PullResult result = await PullAsync(new FileFilter(["model.safetensors"], []));
        Assert.Equal(_hub.Files["model.safetensors"], File.ReadAllBytes(Path.Combine(result.Folder, "model.safetensors")));
    }

    [Theory]
    [InlineData("model.safetensors")]
    [InlineData("config.json")]
    public async Task A_wrong_digest_is_tried_again_and_then_refused(string file)
    {
        _hub.CorruptBodies = 1;
        PullResult result = await PullAsync(new FileFilter([file], []));
        Assert.Equal(_hub.Files[file], File.ReadAllBytes(Path.Combine(result.Folder, file)));

        Directory.Delete(Path.Combine(_folder, "models--org--model"), recursive: true);
        _hub.CorruptBodies = 100;
        HubException error = await Assert.ThrowsAsync<HubException>(() => PullAsync(new FileFilter([file], [])));
        Assert.Equal(HubFault.Corrupt, error.Fault);
        Assert.Contains(FakeHub.Etag(_hub.Files[file]), error.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFiles(Path.Combine(_folder, "models--org--model", "blobs")));
    }

    [Fact]
    public async Task A_spoiled_rest_of_an_earlier_run_is_thrown_away()
    {
        string blobs = Path.Combine(_folder, "models--org--model", "blobs");
        Directory.CreateDirectory(blobs);
        File.WriteAllBytes(Path.Combine(blobs, FakeHub.Etag(_hub.Files["model.safetensors"]) + ".incomplete"), new byte[1000]);
        PullResult result = await PullAsync(new FileFilter(["model.safetensors"], []));
        Assert.Equal(_hub.Files["model.safetensors"], File.ReadAllBytes(Path.Combine(result.Folder, "model.safetensors")));
    }

    [Fact]
    public async Task Server_errors_are_tried_again()
    {
        _hub.ServerErrors = 3;
        Assert.Equal(5, (await PullAsync()).Files.Count);
    }

    [Fact]
    public async Task The_token_goes_to_the_hub_and_not_to_the_host_it_redirects_to()
    {
        _hub.RequiredToken = "hf_secret";
        await PullAsync(token: "hf_secret");
        Assert.Contains(_hub.Requests, request => request.StartsWith("CDN", StringComparison.Ordinal));
        Assert.Empty(_hub.TokensAtCdn);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("hf_other")]
    public async Task A_private_repository_is_not_found_without_its_token(string? token)
    {
        _hub.RequiredToken = "hf_secret";
        HubException error = await Assert.ThrowsAsync<HubException>(() => PullAsync(token: token));
        Assert.Equal(HubFault.RepositoryNotFound, error.Fault);
        Assert.Contains(token is null ? "HF_TOKEN" : "the token has no access", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(null, "HF_TOKEN")]
    [InlineData("hf_x", "token of that account")]
    public async Task A_gated_repository_says_what_to_do(string? token, string advice)
    {
        _hub.Gated = true;
        HubException error = await Assert.ThrowsAsync<HubException>(() => PullAsync(token: token));
        Assert.Equal(HubFault.Gated, error.Fault);
        Assert.Contains(advice, error.Message, StringComparison.Ordinal);
        Assert.Contains($"{_hub.Address}org/model", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Unknown_revisions_and_other_branches()
    {
        Assert.Equal(HubFault.RevisionNotFound, (await Assert.ThrowsAsync<HubException>(() => PullAsync(name: new HubName("org/model", "nope")))).Fault);
        PullResult result = await PullAsync(name: new HubName("org/model", "refs/pr/1"));
        Assert.Equal(result.Folder, new HubCache(_folder).ResolveSnapshot("org/model@refs/pr/1"));
        Assert.Null(new HubCache(_folder).ResolveSnapshot("org/model"));
    }

    [Theory]
    [InlineData("../../../evil.json")]
    [InlineData("/etc/evil.json")]
    [InlineData("a/../../evil.json")]
    [InlineData("a\\..\\..\\evil.json")]
    [InlineData("C:evil.json")]
    [InlineData("a//evil.json")]
    [InlineData("./evil.json")]
    [InlineData("nul.json")]
    [InlineData("evil\u0000.json")]
    [InlineData("")]
    public async Task Names_outside_the_repository_are_refused(string path)
    {
        _hub.AnnouncedPath = path;
        HubException error = await Assert.ThrowsAsync<HubException>(() => PullAsync());
        Assert.Equal(HubFault.Malformed, error.Fault);
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder));
    }

    [Fact]
    public async Task Sizes_that_contradict_are_refused()
    {
        _hub.AnnouncedSize = 10;
        Assert.Equal(HubFault.Malformed, (await Assert.ThrowsAsync<HubException>(() => PullAsync())).Fault);
    }

    [Fact]
    public async Task Offline_uses_the_cache_alone_and_lists_it()
    {
        HubException error = await Assert.ThrowsAsync<HubException>(() => PullAsync(offline: true));
        Assert.Equal(HubFault.Offline, error.Fault);
        Assert.Contains("The cache is empty.", error.Message, StringComparison.Ordinal);

        PullResult online = await PullAsync();
        _hub.Requests.Clear();
        Assert.Equal(online.Folder, (await PullAsync(offline: true)).Folder);
        Assert.Empty(_hub.Requests);

        error = await Assert.ThrowsAsync<HubException>(() => PullAsync(offline: true, name: new HubName("org/other")));
        Assert.Contains("There is: org/model.", error.Message, StringComparison.Ordinal);
        Assert.Contains("lora pull org/other", Assert.Throws<HubException>(() => new HubCache(_folder).RequireSnapshot("org/other")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_repository_of_pickles_is_refused_with_the_reason()
    {
        _hub.Files.Clear();
        _hub.Files["pytorch_model.bin"] = new byte[200];
        HubException error = await Assert.ThrowsAsync<HubException>(() => PullAsync());
        Assert.Contains("pickled weights", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Pulls_at_the_same_time_share_the_work()
    {
        PullResult[] results = await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => PullAsync()));
        Assert.All(results, result => Assert.Equal(_hub.Files["model.safetensors"], File.ReadAllBytes(Path.Combine(result.Folder, "model.safetensors"))));
        Assert.Single(_hub.Requests, request => request.StartsWith("CDN GET model.safetensors", StringComparison.Ordinal));
    }

    [Fact]
    public async Task An_unreachable_hub_is_an_error_that_says_so()
    {
        using var client = new HubClient(Settings() with { Endpoint = new Uri("http://127.0.0.1:1"), Retries = 1 });
        HubException error = await Assert.ThrowsAsync<HubException>(() => client.PullAsync(Name, cancellation: TestContext.Current.CancellationToken));
        Assert.Equal(HubFault.Unreachable, error.Fault);
        Assert.Contains("HF_ENDPOINT", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Progress_ends_with_every_file_done()
    {
        var last = new System.Collections.Concurrent.ConcurrentDictionary<string, TransferProgress>();
        PullResult result = await PullAsync(progress: new Reporter(update => last[update.File] = update));
        Assert.Equal(result.Files.Order(), last.Keys.Order());
        Assert.All(last.Values, update => Assert.True(update.State is TransferState.Done && update.Done == update.Total, update.ToString()));
    }

    private HubSettings Settings(string? token = null, bool offline = false) => new()
    {
        Endpoint = _hub.Address,
        CacheFolder = _folder,
        Token = token,
        Offline = offline,
        RetryDelay = TimeSpan.FromMilliseconds(5),
        Timeout = TimeSpan.FromSeconds(10),
    };

    private async Task<PullResult> PullAsync(FileFilter? filter = null, string? token = null, bool offline = false, HubName? name = null, IProgress<TransferProgress>? progress = null)
    {
        using var client = new HubClient(Settings(token, offline));
        return await client.PullAsync(name ?? Name, filter, progress, cancellation: TestContext.Current.CancellationToken);
    }

    private sealed class Reporter(Action<TransferProgress> report) : IProgress<TransferProgress>
    {
        public void Report(TransferProgress value) => report(value);
    }
}

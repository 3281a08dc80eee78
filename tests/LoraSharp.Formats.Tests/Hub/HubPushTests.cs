using System.Security.Cryptography;
using System.Text;
using LoraSharp.Formats.Hub;

namespace LoraSharp.Formats.Tests.Hub;

public sealed class HubPushTests : IAsyncLifetime
{
    private static readonly HubName Name = new("org/model");

    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-push-").FullName;
    private readonly byte[] _weights = RandomNumberGenerator.GetBytes(2_500);
    private FakeHub _hub = null!;

    public async ValueTask InitializeAsync()
    {
        _hub = await FakeHub.StartAsync();
        File.WriteAllText(Path.Combine(_folder, "adapter_config.json"), "{\"r\": 8}");
        File.WriteAllText(Path.Combine(_folder, "README.md"), "# Card");
        File.WriteAllBytes(Path.Combine(_folder, "adapter_model.safetensors"), _weights);
        Directory.CreateDirectory(Path.Combine(_folder, "checkpoints"));
        File.WriteAllText(Path.Combine(_folder, "checkpoints", "state.json"), "{}");
        File.WriteAllText(Path.Combine(_folder, ".hidden"), "x");
    }

    public async ValueTask DisposeAsync()
    {
        await _hub.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("1000")]
    public async Task Push_stores_large_files_and_commits_all(string? chunkSize)
    {
        _hub.LfsChunkSize = chunkSize;
        PushResult result = await PushAsync("hf_token");
        Assert.Equal(FakeHub.Commit, result.Commit);
        Assert.Equal(["README.md", "adapter_config.json", "adapter_model.safetensors"], result.Files.Order(StringComparer.Ordinal));
        Assert.Equal("{\"name\":\"model\",\"type\":\"model\",\"private\":true,\"organization\":\"org\"}", _hub.Created!.ToJsonString());

        byte[] stored = chunkSize is null ? _hub.Uploaded["whole"] : [.. _hub.Uploaded["part1"], .. _hub.Uploaded["part2"], .. _hub.Uploaded["part3"]];
        Assert.Equal(_weights, stored);
        Assert.Contains("\"oid\"", Encoding.UTF8.GetString(_hub.Uploaded["/verify"]), StringComparison.Ordinal);
        if (chunkSize is not null)
        {
            Assert.Contains("part-part3", Encoding.UTF8.GetString(_hub.Uploaded["/complete"]), StringComparison.Ordinal);
        }

        Assert.Equal(["header", "file", "file", "lfsFile"], _hub.CommitLines.Select(line => line["key"]!.ToString()));
        Assert.Equal("Better", _hub.CommitLines[0]["value"]!["summary"]!.ToString());
        Assert.Equal("# Card", Encoding.UTF8.GetString(Convert.FromBase64String(_hub.CommitLines[1]["value"]!["content"]!.ToString())));
        Assert.Equal(Convert.ToHexStringLower(SHA256.HashData(_weights)), _hub.CommitLines[3]["value"]!["oid"]!.ToString());
        Assert.Empty(_hub.TokensAtCdn);
    }

    [Fact]
    public async Task A_repository_that_is_there_is_committed_to()
    {
        _hub.Files["x"] = [1];
        Assert.Equal(FakeHub.Commit, (await PushAsync("hf_token")).Commit);
    }

    [Fact]
    public async Task Without_a_token_nothing_is_sent()
    {
        Assert.Equal(HubFault.Unauthorized, (await Assert.ThrowsAsync<HubException>(() => PushAsync(null))).Fault);
        Assert.Empty(_hub.Requests);
    }

    [Fact]
    public async Task A_folder_without_an_adapter_is_refused()
    {
        File.Delete(Path.Combine(_folder, "adapter_config.json"));
        HubException error = await Assert.ThrowsAsync<HubException>(() => PushAsync("hf_token"));
        Assert.Contains("adapter_config.json", error.Message, StringComparison.Ordinal);
    }

    private async Task<PushResult> PushAsync(string? token)
    {
        using var client = new HubClient(new HubSettings { Endpoint = _hub.Address, CacheFolder = Path.Combine(_folder, "cache"), Token = token, RetryDelay = TimeSpan.FromMilliseconds(5) });
        return await client.PushAsync(_folder, Name, "Better", isPrivate: true, cancellation: TestContext.Current.CancellationToken);
    }
}

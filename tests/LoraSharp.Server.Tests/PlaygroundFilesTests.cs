using System.Net;
using System.Text;
using System.Text.Json.Nodes;

namespace LoraSharp.Server.Tests;

/// <summary>What the page is made of, and the two answers it is fed by, without a browser.</summary>
public sealed class PlaygroundFilesTests
{
    private const int MostBytes = 80 * 1024;

    private static string Model => Fixtures.Path("models/llama");

    [Fact]
    public async Task The_page_needs_no_key_and_may_reach_nothing_but_its_server()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, options: new ServerOptions { ModelName = "base", ApiKeys = ["right"] });

        using HttpResponseMessage page = await server.Client.GetAsync("/", TestContext.Current.CancellationToken);
        string html = await page.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
        using var again = new HttpRequestMessage(HttpMethod.Get, "/");
        again.Headers.IfNoneMatch.Add(page.Headers.ETag!);

        Assert.Equal(HttpStatusCode.OK, page.StatusCode);
        Assert.Equal("text/html", page.Content.Headers.ContentType!.MediaType);
        string policy = page.Headers.GetValues("Content-Security-Policy").Single();
        Assert.StartsWith("default-src 'none'", policy);
        Assert.DoesNotContain("unsafe", policy);
        Assert.Contains("playground/app.js", html);
        Assert.Equal(HttpStatusCode.NotModified, (await server.Client.SendAsync(again, TestContext.Current.CancellationToken)).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await server.Client.GetAsync("/status", TestContext.Current.CancellationToken)).StatusCode);
        Assert.NotEqual(HttpStatusCode.OK, (await server.Client.GetAsync("/playground/../appsettings.json", TestContext.Current.CancellationToken)).StatusCode);
    }

    [Fact]
    public void Its_files_are_small_and_name_no_other_host()
    {
        string folder = Path.Combine(Fixtures.Root(), "src", "LoraSharp.Server", "Playground");
        string[] files = Directory.GetFiles(folder);

        Assert.InRange(files.Sum(f => new FileInfo(f).Length), 1, MostBytes);
        Assert.Equal(files.Sum(f => new FileInfo(f).Length), new PlaygroundPage().TotalBytes);
        Assert.All(files, f => Assert.DoesNotContain("://", File.ReadAllText(f).Replace("http://www.w3.org/2000/svg", "", StringComparison.Ordinal)));
        Assert.All(files.Where(f => f.EndsWith(".js", StringComparison.Ordinal)), f => Assert.DoesNotContain("innerHTML", File.ReadAllText(f)));
    }

    [Fact]
    public async Task It_can_be_left_out()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, options: new ServerOptions { ModelName = "base", Playground = false });

        Assert.Equal(HttpStatusCode.NotFound, (await server.Client.GetAsync("/", TestContext.Current.CancellationToken)).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await server.Client.GetAsync("/training", TestContext.Current.CancellationToken)).StatusCode);
    }

    [Fact]
    public async Task Status_counts_what_the_engine_did()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, new Dictionary<string, string> { ["a"] = Fixtures.Path("mixed_batch/a") });
        await server.PostAsync("/v1/completions", new JsonObject { ["model"] = "a", ["prompt"] = new JsonArray(5, 6, 7), ["max_tokens"] = 4, ["ignore_eos"] = true });

        JsonNode status = JsonNode.Parse(await server.Client.GetStringAsync("/status", TestContext.Current.CancellationToken))!;

        Assert.Equal("base", (string?)status["model"]);
        Assert.Equal(4, (long)status["generated_tokens"]!);
        Assert.Equal(1, (int)status["adapters"]!["device"]!);
        Assert.False((bool)status["chat"]!);
        Assert.True((int)status["kv_blocks"]!["total"]! > 0);
    }

    [Fact]
    public void Metrics_of_a_run_are_told_line_by_line_from_where_one_was()
    {
        using var folder = new TemporaryFolder();
        string file = Path.Combine(folder.Path, "metrics.jsonl");
        var run = new RunMetrics(folder.Path);
        Assert.Empty(run.Read(0)["entries"]!.AsArray());

        File.WriteAllText(file, "{\"step\":1}\n{\"step\":2}\n{\"ste");
        JsonObject first = run.Read(0);
        File.AppendAllText(file, "p\":3}\n");
        JsonObject second = run.Read((long)first["offset"]!);

        Assert.Equal([1, 2], first["entries"]!.AsArray().Select(e => (int)e!["step"]!));
        Assert.Equal([3], second["entries"]!.AsArray().Select(e => (int)e!["step"]!));
        Assert.False((bool)second["complete"]!);

        // A run that went on from a checkpoint has fewer lines than were told.
        File.WriteAllText(file, "{\"step\":1}\nnot JSON\n[1]\n");
        File.WriteAllText(Path.Combine(folder.Path, ".complete"), "");
        JsonObject anew = run.Read((long)second["offset"]!);
        Assert.True((bool)anew["restarted"]!);
        Assert.True((bool)anew["complete"]!);
        Assert.Single(anew["entries"]!.AsArray());
        Assert.Single(run.Read(-5)["entries"]!.AsArray());
    }

    [Fact]
    public void A_long_file_is_told_in_pieces()
    {
        using var folder = new TemporaryFolder();
        const int Lines = 60_000;
        File.WriteAllText(Path.Combine(folder.Path, "metrics.jsonl"), new StringBuilder().AppendJoin("", Enumerable.Range(1, Lines).Select(i => $"{{\"step\":{i},\"loss\":1.5,\"é\":0}}\n")).ToString());
        var run = new RunMetrics(folder.Path);
        var steps = new List<int>();
        long at = 0;
        for (int turn = 0; turn < 10; turn++)
        {
            JsonObject piece = run.Read(at);
            steps.AddRange(piece["entries"]!.AsArray().Select(e => (int)e!["step"]!));
            at = (long)piece["offset"]!;
        }

        Assert.Equal(Enumerable.Range(1, Lines), steps);
    }
}

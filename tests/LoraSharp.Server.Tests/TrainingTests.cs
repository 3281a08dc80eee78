using System.Net;
using System.Text.Json.Nodes;

namespace LoraSharp.Server.Tests;

/// <summary>A fine-tune that is started, watched and ended over HTTP, on the base that answers meanwhile.</summary>
public sealed class TrainingTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private static string Model => Fixtures.Path("models/llama");

    private ServerOptions Options => new() { ModelName = "base", TrainingFolder = _folder.Path };

    [Fact]
    public async Task A_run_is_started_watched_and_its_adapter_answers()
    {
        WriteRows("rows.jsonl", 12);
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options);

        (HttpStatusCode status, JsonObject started) = await server.PostAsync("/admin/training", Request("fresh", steps: 6));
        JsonObject[] events = await EventsAsync(server, after: 0);
        JsonNode over = JsonNode.Parse(await server.Client.GetStringAsync("/admin/training", Cancellation))!;
        (HttpStatusCode answered, JsonObject answer) = await server.PostAsync("/v1/completions", new JsonObject { ["model"] = "fresh", ["prompt"] = new JsonArray(5, 6), ["max_tokens"] = 3 });
        JsonObject[] rest = await EventsAsync(server, after: (long)over["last_event"]! - 1);
        JsonNode curves = JsonNode.Parse(await server.Client.GetStringAsync("/training", Cancellation))!;

        Assert.Equal(HttpStatusCode.Accepted, status);
        Assert.Equal(("fresh", 6), ((string?)started["name"], (int?)started["total_steps"]));
        Assert.Equal([1, 2, 3, 4, 5, 6], events.Where(e => (string?)e["event"] == "step").Select(e => (int)e["step"]!));
        Assert.All(events.Where(e => (string?)e["event"] == "step"), e => Assert.True((double?)e["loss"] > 0 && (double?)e["learning_rate"] > 0));
        Assert.Equal("started", (string?)events.First(e => (string?)e["event"] != "note")["event"]);
        Assert.Equal(("ended", "completed"), ((string?)events[^1]["event"], (string?)events[^1]["state"]));
        Assert.Equal(("completed", 6), ((string?)over["state"], (int?)over["step"]));
        Assert.Equal(HttpStatusCode.OK, answered);
        Assert.Equal("fresh", (string?)answer["model"]);
        Assert.Equal("ended", (string?)Assert.Single(rest)["event"]);
        Assert.Equal(("fresh", 6), ((string?)curves["run"], curves["entries"]!.AsArray().Count));
        Assert.True(File.Exists(Path.Combine(_folder.Path, "fresh", "adapter_model.safetensors")));
    }

    [Fact]
    public async Task One_run_at_a_time_and_a_cancelled_one_goes_on_where_it_stopped()
    {
        WriteRows("rows.jsonl", 12);
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options);
        JsonObject request = Request("long", steps: 100_000);
        _ = await server.PostAsync("/admin/training", (JsonObject)request.DeepClone());

        (HttpStatusCode second, JsonObject busy) = await server.PostAsync("/admin/training", Request("other", steps: 2));
        (HttpStatusCode answered, _) = await server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = new JsonArray(5, 6), ["max_tokens"] = 3 });
        (HttpStatusCode cancelled, JsonObject state) = await server.PostAsync("/admin/training/cancel", []);
        (HttpStatusCode again, _) = await server.PostAsync("/admin/training/cancel", []);
        (HttpStatusCode resumed, JsonObject goesOn) = await server.PostAsync("/admin/training", (JsonObject)request.DeepClone());
        (_, JsonObject end) = await server.PostAsync("/admin/training/cancel", []);
        JsonObject[] events = await EventsAsync(server, after: 0);

        Assert.Equal((HttpStatusCode.Conflict, "training_under_way"), (second, (string?)busy["error"]!["code"]));
        Assert.Contains("'long', step", (string?)busy["error"]!["message"]);
        Assert.Equal((HttpStatusCode.OK, HttpStatusCode.OK, HttpStatusCode.Conflict, HttpStatusCode.Accepted), (answered, cancelled, again, resumed));
        Assert.Equal("cancelled", (string?)state["state"]);
        Assert.True((long)goesOn["step"]! >= (long)state["step"]! && (long)end["step"]! >= (long)goesOn["step"]!, $"{state} {goesOn} {end}");
        Assert.Equal((long)state["step"]!, (long)events.Single(e => (string?)e["event"] == "started")["step"]!);
        Assert.Null(server.Engine.FindAdapter("long"));
    }

    [Fact]
    public async Task All_faults_of_a_recipe_are_told_at_once_and_nothing_is_written()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options);
        var request = (JsonObject)JsonNode.Parse("""{"name":"x","recipe":{"adapter":{"rnk":4,"alpha":-1},"training":{"optimizer":"sgdd","epochs":"many"}}}""")!;

        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/admin/training", request);
        (HttpStatusCode paths, JsonObject outside) = await server.PostAsync("/admin/training", (JsonObject)JsonNode.Parse("""{"name":"x","recipe":{"method":"full","data":{"train":["/etc/passwd","../up.jsonl","none.jsonl"],"validation":"../v.jsonl"},"adapter":{"init_from":"/tmp"}}}""")!);

        string message = (string)body["error"]!["message"]!;
        Assert.Equal((HttpStatusCode.BadRequest, "invalid_recipe"), (status, (string?)body["error"]!["code"]));
        Assert.All(new[] { "rnk", "alpha", "sgdd", "many" }, part => Assert.Contains(part, message));
        string[] faults = ((string)outside["error"]!["message"]!).Split('\n');
        Assert.Equal(HttpStatusCode.BadRequest, paths);
        Assert.Equal(7, faults.Length);
        Assert.All(new[] { "method: full", "/etc/passwd", "../up.jsonl", "none.jsonl", "../v.jsonl", "init_from" }, part => Assert.Contains(faults, f => f.Contains(part, StringComparison.Ordinal)));
        Assert.Empty(Directory.EnumerateFileSystemEntries(_folder.Path));
        Assert.Equal("none", (string?)JsonNode.Parse(await server.Client.GetStringAsync("/admin/training", Cancellation))!["state"]);
    }

    [Theory]
    [InlineData("""{"recipe":{}}""", "name is missing")]
    [InlineData("""{"name":"../x","recipe":{}}""", "a folder is called so")]
    [InlineData("""{"name":"base","recipe":{"data":{"train":"rows.jsonl"}}}""", "base model's name")]
    [InlineData("""{"name":"x"}""", "recipe is missing")]
    [InlineData("""{"name":"x","recipe":3}""", "expected an object")]
    [InlineData("""{"name":"x","share":0,"recipe":{"data":{"train":"rows.jsonl"}}}""", "share")]
    [InlineData("""{"name":"x","recipe":{"model":"elsewhere","data":{"train":"rows.jsonl"}}}""", "elsewhere")]
    [InlineData("""{"name":"x","recipe":"model: [\n"}""", "not valid YAML")]
    [InlineData("""{"name":"x","recipe":{"data":{"train":"bad.jsonl"}}}""", "bad.jsonl")]
    public async Task What_cannot_be_trained_is_refused_and_the_server_goes_on(string body, string message)
    {
        WriteRows("rows.jsonl", 4);
        await File.WriteAllTextAsync(Path.Combine(_folder.Path, "bad.jsonl"), "{\"nothing\": \n", Cancellation);
        await using RunningServer server = await RunningServer.StartAsync(Model, options: Options);

        (HttpStatusCode status, JsonObject answer) = await server.PostAsync("/admin/training", (JsonObject)JsonNode.Parse(body)!);
        (HttpStatusCode fine, _) = await server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = new JsonArray(5, 6), ["max_tokens"] = 1 });

        Assert.True(status == HttpStatusCode.BadRequest, answer.ToJsonString());
        Assert.Contains(message, (string?)answer["error"]!["message"]);
        Assert.Equal(HttpStatusCode.OK, fine);
        Assert.Empty(server.Engine.Adapters);
    }

    [Fact]
    public async Task Without_a_training_folder_nothing_is_started()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);

        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/admin/training", Request("x", 1));
        using HttpResponseMessage watch = await server.Client.GetAsync("/admin/training/events", Cancellation);

        Assert.Equal((HttpStatusCode.Forbidden, "training_off"), (status, (string?)body["error"]!["code"]));
        Assert.Equal(HttpStatusCode.NotFound, watch.StatusCode);
    }

    public void Dispose() => _folder.Dispose();

    private static JsonObject Request(string name, int steps) => new()
    {
        ["name"] = name,
        ["recipe"] = new JsonObject
        {
            ["model"] = "base",
            ["data"] = new JsonObject { ["train"] = "rows.jsonl" },
            ["adapter"] = new JsonObject { ["rank"] = 4 },
            ["training"] = new JsonObject { ["max_steps"] = steps, ["batch_size"] = 2, ["gradient_accumulation"] = 1, ["warmup_steps"] = 0, ["learning_rate"] = 1e-3 },
        },
    };

    private static async Task<JsonObject[]> EventsAsync(RunningServer server, long after)
    {
        string text = await server.Client.GetStringAsync($"/admin/training/events?after={after}", Cancellation);
        Assert.EndsWith("data: [DONE]\n\n", text);
        return [.. text.Split('\n').Where(l => l.StartsWith("data: {", StringComparison.Ordinal)).Select(l => (JsonObject)JsonNode.Parse(l[6..])!)];
    }

    private void WriteRows(string name, int count) => File.WriteAllLines(
        Path.Combine(_folder.Path, name),
        Enumerable.Range(0, count).Select(i => $$"""{"input_ids": [5, {{10 + i}}, 20, {{30 + i}}, 7], "labels": [-100, {{10 + i}}, 20, {{30 + i}}, 7]}"""));
}

using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Serving;

namespace LoraSharp.Server.Tests;

/// <summary>Who may do what, and how much of it.</summary>
public sealed class AccessTests
{
    private const string Keys =
        """
        keys:
          - { name: team-a, key: key-of-team-a, adapters: [a] }
          - { name: team-b, key: key-of-team-b, adapters: ["b*"], base: false }
          - { name: few, key: key-of-few, requests_per_minute: 2 }
          - { name: short, key: key-of-short, tokens_per_minute: 20 }
          - { name: single, key: key-of-single, max_concurrent: 1 }
          - { name: ops, key: key-of-ops, admin: true }
        """;

    public static TheoryData<string, string> Routes => new()
    {
        { "POST", "/v1/completions" }, { "POST", "/v1/chat/completions" }, { "GET", "/v1/models" }, { "GET", "/v1/models/base" }, { "GET", "/status" },
        { "POST", "/v1/load_lora_adapter" }, { "POST", "/v1/unload_lora_adapter" }, { "GET", "/metrics" }, { "GET", "/admin/status" }, { "POST", "/admin/adapters/load" },
        { "POST", "/admin/adapters/unload" }, { "POST", "/admin/drain" }, { "POST", "/admin/resume" }, { "POST", "/admin/keys/reload" }, { "POST", "/admin/training" }, { "GET", "/admin/training" }, { "GET", "/admin/training/events" }, { "POST", "/admin/training/cancel" }, { "GET", "/training" }, { "GET", "/v1/nothing" }, { "DELETE", "/v1/models" },
    };

    private static Dictionary<string, string> Adapters => new[] { "a", "b", "c" }.ToDictionary(n => n, n => Fixtures.Path("mixed_batch/" + n));

    [Theory]
    [MemberData(nameof(Routes))]
    public async Task Without_the_right_key_nothing_is_answered(string method, string path)
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"), options: new ServerOptions { ModelName = "base", ApiKeys = ["right"], AdminKey = "admin" });
        foreach (string? key in (string?[])[null, "Bearer wrong", "Bearer rightt", "Bearer ", "Basic right", "right", "Bearer right, Bearer wrong"])
        {
            using var request = new HttpRequestMessage(new HttpMethod(method), path);
            if (key is not null)
            {
                request.Headers.TryAddWithoutValidation("Authorization", key);
            }

            using HttpResponseMessage response = await server.Client.SendAsync(request, TestContext.Current.CancellationToken);
            Assert.Equal(HttpStatusCode.Unauthorized, response.StatusCode);
            Assert.Equal("invalid_api_key", (string?)JsonNode.Parse(await response.Content.ReadAsStringAsync(TestContext.Current.CancellationToken))!["error"]!["code"]);
        }
    }

    [Fact]
    public async Task Other_tenants_adapters_are_not_there()
    {
        await using Started started = await Started.WithKeysAsync();
        RunningServer server = started.Server;

        Assert.Equal(["base", "a"], await NamesAsync(server, "key-of-team-a"));
        Assert.Equal(["b"], await NamesAsync(server, "key-of-team-b"));
        Assert.Equal(["base", "a", "b", "c"], await NamesAsync(server, "key-of-ops"));
        (HttpStatusCode taken, JsonNode takenBody) = await SendAsync(server, "key-of-team-a", "/v1/completions", """{"model":"b","prompt":[5],"max_tokens":1}""");
        (HttpStatusCode missing, JsonNode missingBody) = await SendAsync(server, "key-of-team-a", "/v1/completions", """{"model":"x","prompt":[5],"max_tokens":1}""");
        (HttpStatusCode own, _) = await SendAsync(server, "key-of-team-a", "/v1/completions", """{"model":"a","prompt":[5],"max_tokens":1}""");
        (HttpStatusCode byDefault, JsonNode byDefaultBody) = await SendAsync(server, "key-of-team-b", "/v1/completions", """{"prompt":[5],"max_tokens":1}""");

        Assert.Equal(HttpStatusCode.NotFound, taken);

        // Nothing tells a name that is another's from one that is nobody's.
        Assert.Equal(((string?)missingBody["error"]!["message"])!.Replace("'x'", "'b'"), (string?)takenBody["error"]!["message"]);
        Assert.Contains("There are: base, a.", (string?)missingBody["error"]!["message"]);
        Assert.Equal(HttpStatusCode.NotFound, missing);
        Assert.Equal(HttpStatusCode.OK, own);
        Assert.Equal(HttpStatusCode.NotFound, byDefault);
        Assert.Contains("There are: b.", (string?)byDefaultBody["error"]!["message"]);
        using HttpResponseMessage one = await GetAsync(server, "key-of-team-a", "/v1/models/b");
        Assert.Equal(HttpStatusCode.NotFound, one.StatusCode);
    }

    [Theory]
    [InlineData("/metrics")]
    [InlineData("/admin/status")]
    [InlineData("/admin/training")]
    public async Task Tenants_are_no_admins(string path)
    {
        await using Started started = await Started.WithKeysAsync();

        using HttpResponseMessage tenant = await GetAsync(started.Server, "key-of-team-a", path);
        using HttpResponseMessage admin = await GetAsync(started.Server, "key-of-ops", path);
        (HttpStatusCode load, _) = await SendAsync(started.Server, "key-of-team-a", "/v1/unload_lora_adapter", """{"lora_name":"a"}""");

        Assert.Equal(HttpStatusCode.Forbidden, tenant.StatusCode);
        Assert.Equal(HttpStatusCode.OK, admin.StatusCode);
        Assert.Equal(HttpStatusCode.Forbidden, load);
    }

    [Fact]
    public async Task Limits_a_minute_are_told_with_when_to_come_again()
    {
        await using Started started = await Started.WithKeysAsync();
        async Task<HttpResponseMessage> Ask(string key)
        {
            using var request = Request(key, "/v1/completions", """{"prompt":[5,6,7,8,9,10,11,12,13,14,15,16,17,18,19],"max_tokens":10,"ignore_eos":true}""");
            return await started.Server.Client.SendAsync(request, TestContext.Current.CancellationToken);
        }

        using HttpResponseMessage first = await Ask("key-of-few");
        using HttpResponseMessage second = await Ask("key-of-few");
        using HttpResponseMessage third = await Ask("key-of-few");
        using HttpResponseMessage admitted = await Ask("key-of-short");
        using HttpResponseMessage refused = await Ask("key-of-short");

        Assert.Equal((HttpStatusCode.OK, HttpStatusCode.OK, HttpStatusCode.TooManyRequests), (first.StatusCode, second.StatusCode, third.StatusCode));
        Assert.Equal("2", first.Headers.GetValues("x-ratelimit-limit-requests").Single());
        Assert.Equal("1", first.Headers.GetValues("x-ratelimit-remaining-requests").Single());
        Assert.InRange(third.Headers.RetryAfter!.Delta!.Value.TotalSeconds, 1, 31);
        Assert.Equal((HttpStatusCode.OK, HttpStatusCode.TooManyRequests), (admitted.StatusCode, refused.StatusCode));

        // 25 used of 20, and 15 more are wanted: 20 at 20 a minute.
        Assert.InRange(refused.Headers.RetryAfter!.Delta!.Value.TotalSeconds, 50, 61);
        Assert.Contains("20 tokens a minute", await refused.Content.ReadAsStringAsync(TestContext.Current.CancellationToken));
    }

    [Fact]
    public async Task A_key_for_one_at_a_time_gets_no_second()
    {
        await using Started started = await Started.WithKeysAsync();
        using HttpRequestMessage request = Request("key-of-single", "/v1/completions", """{"prompt":[5],"max_tokens":100,"ignore_eos":true,"stream":true}""");
        using HttpResponseMessage running = await started.Server.Client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, TestContext.Current.CancellationToken);

        (HttpStatusCode second, _) = await SendAsync(started.Server, "key-of-single", "/v1/completions", """{"prompt":[5],"max_tokens":1}""");
        await running.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
        HttpStatusCode third = second;
        for (int i = 0; i < 100 && third == HttpStatusCode.TooManyRequests; i++)
        {
            (third, _) = await SendAsync(started.Server, "key-of-single", "/v1/completions", """{"prompt":[5],"max_tokens":1}""");
        }

        Assert.Equal(HttpStatusCode.TooManyRequests, second);
        Assert.Equal(HttpStatusCode.OK, third);
    }

    [Fact]
    public async Task A_revoked_key_is_refused_after_a_reload_and_a_faulty_file_changes_nothing()
    {
        await using Started started = await Started.WithKeysAsync();
        await File.WriteAllTextAsync(started.KeysFile, "keys: nonsense", TestContext.Current.CancellationToken);
        (HttpStatusCode faulty, _) = await SendAsync(started.Server, "key-of-ops", "/admin/keys/reload", "{}");
        using HttpResponseMessage still = await GetAsync(started.Server, "key-of-team-a", "/v1/models");

        await File.WriteAllTextAsync(started.KeysFile, Keys.Replace("key-of-team-a", "new-key-of-team-a"), TestContext.Current.CancellationToken);
        (HttpStatusCode good, _) = await SendAsync(started.Server, "key-of-ops", "/admin/keys/reload", "{}");
        using HttpResponseMessage old = await GetAsync(started.Server, "key-of-team-a", "/v1/models");
        using HttpResponseMessage renewed = await GetAsync(started.Server, "new-key-of-team-a", "/v1/models");

        Assert.Equal((HttpStatusCode.BadRequest, HttpStatusCode.OK), (faulty, still.StatusCode));
        Assert.Equal((HttpStatusCode.OK, HttpStatusCode.Unauthorized, HttpStatusCode.OK), (good, old.StatusCode, renewed.StatusCode));
    }

    private static async Task<string[]> NamesAsync(RunningServer server, string key)
    {
        using HttpResponseMessage response = await GetAsync(server, key, "/v1/models");
        return [.. JsonNode.Parse(await response.Content.ReadAsStringAsync())!["data"]!.AsArray().Select(m => (string)m!["id"]!)];
    }

    private static async Task<HttpResponseMessage> GetAsync(RunningServer server, string key, string path)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, path);
        request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", key);
        return await server.Client.SendAsync(request);
    }

    private static async Task<(HttpStatusCode Status, JsonNode Body)> SendAsync(RunningServer server, string key, string path, string body)
    {
        using HttpRequestMessage request = Request(key, path, body);
        using HttpResponseMessage response = await server.Client.SendAsync(request);
        return (response.StatusCode, JsonNode.Parse(await response.Content.ReadAsStringAsync())!);
    }

    private static HttpRequestMessage Request(string key, string path, string body) => new(HttpMethod.Post, path)
    {
        Headers = { Authorization = new AuthenticationHeaderValue("Bearer", key) },
        Content = new StringContent(body, Encoding.UTF8, "application/json"),
    };

    private sealed class Started(RunningServer server, TemporaryFolder folder, string keysFile) : IAsyncDisposable
    {
        public RunningServer Server => server;

        public string KeysFile => keysFile;

        public static async Task<Started> WithKeysAsync()
        {
            var folder = new TemporaryFolder();
            string file = Path.Combine(folder.Path, "keys.yaml");
            await File.WriteAllTextAsync(file, Keys);
            return new Started(await RunningServer.StartAsync(Fixtures.Path("models/llama"), Adapters, new ServerOptions { ModelName = "base", KeysFile = file }, new EngineLimits()), folder, file);
        }

        public async ValueTask DisposeAsync()
        {
            await server.DisposeAsync();
            folder.Dispose();
        }
    }
}

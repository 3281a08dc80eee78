using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Serving;

namespace LoraSharp.Server.Tests;

/// <summary>What hostile clients send (docs/security.md): each is refused, and the server goes on.</summary>
public sealed class AttackTests(AttackTests.Target target) : IClassFixture<AttackTests.Target>
{
    private const int Bytes = 1 << 20;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("../../etc/passwd")]
    [InlineData("a/../b")]
    [InlineData("..")]
    [InlineData(".hidden")]
    [InlineData("/etc/passwd")]
    [InlineData("a//b")]
    [InlineData("a\\\\..\\\\b")]
    [InlineData("a\\u0000b")]
    [InlineData("a b")]
    [InlineData("a\\nb")]
    [InlineData("")]
    [InlineData("attacked")]
    [InlineData("\\u202eadmin")]
    public async Task Names_that_are_no_names_are_refused(string name)
    {
        foreach ((string path, string body) in ((string, string)[])[("/v1/load_lora_adapter", $$"""{"lora_name":"{{name}}","lora_path":"a"}"""), ("/admin/adapters/load", $$"""{"name":"{{name}}","path":"a"}""")])
        {
            await RefusedAsync(HttpStatusCode.BadRequest, path, body);
        }
    }

    [Theory]
    [InlineData("../secret")]
    [InlineData("a/../../secret")]
    [InlineData("/etc")]
    [InlineData("..")]
    [InlineData(".")]
    [InlineData("link")]
    [InlineData("link/inner")]
    [InlineData("org/name")]
    public async Task Paths_out_of_the_adapters_folder_are_refused(string path)
    {
        using HttpResponseMessage response = await PostAsync("/v1/load_lora_adapter", $$"""{"lora_name":"x","lora_path":"{{path}}"}""");

        // A name below the folder that is not there is told as such, one beyond it as forbidden, whether it is there or not.
        Assert.Equal(path == "org/name" ? HttpStatusCode.BadRequest : HttpStatusCode.Forbidden, response.StatusCode);
        Assert.DoesNotContain(target.Server.Engine.Adapters, a => a.Name == "x");
        await target.StillServesAsync();
    }

    [Fact]
    public async Task An_adapter_below_the_folder_loads_by_its_relative_path()
    {
        using HttpResponseMessage response = await PostAsync("/v1/load_lora_adapter", """{"lora_name":"team/a-2","lora_path":"a"}""");
        using HttpResponseMessage gone = await PostAsync("/v1/unload_lora_adapter", """{"lora_name":"team/a-2"}""");

        Assert.Equal((HttpStatusCode.OK, HttpStatusCode.OK), (response.StatusCode, gone.StatusCode));
    }

    [Theory]
    [InlineData("GET /v1/models/../../../etc/passwd HTTP/1.1")]
    [InlineData("GET /v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1")]
    [InlineData("GET /playground/../../appsettings.json HTTP/1.1")]
    [InlineData("GET /playground/%2e%2e/%2e%2e/etc/passwd HTTP/1.1")]
    [InlineData("GET /v1/%00 HTTP/1.1")]
    [InlineData("GET /v1/models/%ff%fe HTTP/1.1")]
    [InlineData("TRACE /v1/models HTTP/1.1")]
    [InlineData("GET http://elsewhere/v1/models HTTP/1.1")]
    [InlineData("GARBAGE")]
    [InlineData("GET /v1/models HTTP/9.9")]
    public async Task Paths_and_requests_that_are_none_give_4xx(string line)
    {
        string answer = await target.RawAsync(line + "\r\nHost: localhost\r\nAuthorization: Bearer " + Target.Key + "\r\nConnection: close\r\n\r\n");

        Assert.Matches("^HTTP/1.1 (4[0-9]{2}|505) ", answer);
        Assert.DoesNotContain("root:", answer);
        await target.StillServesAsync();
    }

    [Fact]
    public async Task A_body_of_100_MB_is_refused_before_it_is_read()
    {
        string told = await target.RawAsync($"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {Target.Key}\r\nContent-Type: application/json\r\nContent-Length: {100 * Bytes}\r\n\r\n{{");
        Assert.StartsWith("HTTP/1.1 413 ", told);

        // Without a length told, it is cut off at the limit.
        using var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, target.Port, Cancellation);
        NetworkStream stream = client.GetStream();
        await stream.WriteAsync(Encoding.ASCII.GetBytes($"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {Target.Key}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"), Cancellation);
        byte[] chunk = [.. Encoding.ASCII.GetBytes($"{Bytes:x}\r\n"), .. Enumerable.Repeat((byte)' ', Bytes), (byte)'\r', (byte)'\n'];
        int sent = 0;
        try
        {
            while (sent < 100 && !stream.DataAvailable)
            {
                await stream.WriteAsync(chunk, Cancellation);
                sent++;
            }
        }
        catch (IOException)
        {
            // Cut off while we sent.
        }

        Assert.InRange(sent, 1, 60);
        await target.StillServesAsync();
    }

    [Fact]
    public async Task A_hundred_thousand_of_anything_is_refused()
    {
        string many = string.Join(',', Enumerable.Range(0, 100_000).Select(i => $"\"s{i}\""));
        await RefusedAsync(HttpStatusCode.BadRequest, "/v1/completions", $$"""{"prompt":[5],"stop":[{{many}}]}""");
        await RefusedAsync(HttpStatusCode.BadRequest, "/v1/completions", $$"""{"prompt":[{{many}}]}""");
        await RefusedAsync(HttpStatusCode.BadRequest, "/v1/completions", $$"""{"prompt":[{{string.Join(',', Enumerable.Repeat("5", 100_000))}}]}""");
        await RefusedAsync(HttpStatusCode.BadRequest, "/v1/completions", $$"""{"prompt":[5],"stop_token_ids":[{{string.Join(',', Enumerable.Repeat("5", 100_000))}}]}""");
        await RefusedAsync(HttpStatusCode.BadRequest, "/v1/completions", """{"prompt":[5],"n":1000000}""");
        await RefusedAsync(HttpStatusCode.BadRequest, "/v1/completions", """{"prompt":[5],"logprobs":1000000}""");
        await RefusedAsync(HttpStatusCode.BadRequest, "/v1/completions", $$"""{"prompt":[5],"stop":"{{new string('x', 100_000)}}"}""");
        await RefusedAsync(HttpStatusCode.NotFound, "/v1/completions", $$"""{"prompt":[5],"model":"{{new string('x', 100_000)}}"}""");
    }

    public static TheoryData<string, byte[]> Bodies => new()
    {
        { "not UTF-8", [.. "{\"prompt\":\""u8, 0xFF, 0xFE, .. "\"}"u8] },
        { "overlong UTF-8", [.. "{\"prompt\":\""u8, 0xC0, 0xAF, .. "\"}"u8] },
        { "half of a surrogate pair in UTF-8", [.. "{\"prompt\":\""u8, 0xED, 0xA0, 0x80, .. "\"}"u8] },
        { "half of a surrogate pair, escaped", "{\"prompt\":\"\\ud800\"}"u8.ToArray() },
        { "half of a surrogate pair in a key", "{\"\\ud800\":1,\"prompt\":[5]}"u8.ToArray() },
        { "UTF-16", Encoding.Unicode.GetBytes("{\"prompt\":[5]}") },
        { "nested deep", Encoding.ASCII.GetBytes("{\"prompt\":" + new string('[', 100_000)) },
        { "objects nested deep", Encoding.ASCII.GetBytes(string.Concat(Enumerable.Repeat("{\"a\":", 50_000))) },
        { "a key twice", "{\"prompt\":[5],\"prompt\":[6]}"u8.ToArray() },
        { "a number beyond all", "{\"prompt\":[5],\"temperature\":1e999}"u8.ToArray() },
        { "no number", "{\"prompt\":[5],\"temperature\":NaN}"u8.ToArray() },
        { "an id beyond 32 bits", "{\"prompt\":[99999999999999999999]}"u8.ToArray() },
        { "a fraction of an id", "{\"prompt\":[5.5]}"u8.ToArray() },
        { "a negative id", "{\"prompt\":[-1]}"u8.ToArray() },
        { "a comment", "{/**/\"prompt\":[5]}"u8.ToArray() },
        { "two objects", "{\"prompt\":[5]}{}"u8.ToArray() },
        { "a list", "[]"u8.ToArray() },
        { "null", "null"u8.ToArray() },
        { "nothing", [] },
        { "zeros", new byte[1000] },
        { "an empty prompt", "{\"prompt\":[]}"u8.ToArray() },
        { "an empty one of several", "{\"prompt\":[[],[5]]}"u8.ToArray() },
    };

    [Theory]
    [MemberData(nameof(Bodies))]
    public async Task Bodies_that_are_no_request_are_refused(string what, byte[] body)
    {
        foreach (string path in (string[])["/v1/completions", "/v1/chat/completions", "/v1/load_lora_adapter", "/admin/adapters/load"])
        {
            using var content = new ByteArrayContent(body);
            content.Headers.ContentType = new("application/json");
            using HttpResponseMessage response = await target.Server.Client.PostAsync(path, content, Cancellation);
            string answer = await response.Content.ReadAsStringAsync(Cancellation);

            Assert.True(response.StatusCode == HttpStatusCode.BadRequest, $"{what} at {path}: {response.StatusCode} {answer}");
            Assert.False(string.IsNullOrEmpty((string?)JsonNode.Parse(answer)!["error"]!["message"]));
        }

        await target.StillServesAsync();
    }

    [Theory]
    [InlineData("text/plain")]
    [InlineData("application/x-www-form-urlencoded")]
    [InlineData("multipart/form-data")]
    [InlineData(null)]
    public async Task What_a_web_page_may_send_unasked_is_no_request(string? type)
    {
        using var content = new ByteArrayContent("{\"prompt\":[5]}"u8.ToArray());
        content.Headers.ContentType = type is null ? null : new(type);
        using HttpResponseMessage response = await target.Server.Client.PostAsync("/v1/completions", content, Cancellation);

        Assert.Equal(HttpStatusCode.UnsupportedMediaType, response.StatusCode);
    }

    [Theory]
    [InlineData("evil.example", 403)]
    [InlineData("127.0.0.1.evil.example", 403)]
    [InlineData("localhost", 200)]
    [InlineData("127.0.0.1", 200)]
    [InlineData("[::1]", 200)]
    public async Task Without_keys_a_loopback_address_has_its_own_names_only(string host, int status)
    {
        await using RunningServer open = await RunningServer.StartAsync(Fixtures.Path("models/llama"));
        string answer = await RawHttp.SendAsync(open.Client.BaseAddress!.Port, $"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");

        Assert.StartsWith($"HTTP/1.1 {status} ", answer);
    }

    [Fact]
    public async Task Floods_of_headers_are_refused()
    {
        string many = string.Concat(Enumerable.Range(0, 1000).Select(i => $"X-{i}: y\r\n"));
        Assert.StartsWith("HTTP/1.1 431 ", await target.RawAsync($"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"));
        Assert.StartsWith("HTTP/1.1 431 ", await target.RawAsync($"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {new string('x', 100_000)}\r\n\r\n"));
        Assert.StartsWith("HTTP/1.1 414 ", await target.RawAsync($"GET /v1/models/{new string('x', 100_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        await target.StillServesAsync();
    }

    [Fact]
    public async Task Clients_that_dribble_are_cut_off()
    {
        // Headers that never end, and a body of which a byte comes now and then.
        Task<string> headers = target.RawAsync("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
        Task<string> body = target.RawAsync($"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {Target.Key}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{");
        await target.StillServesAsync();

        Assert.StartsWith("HTTP/1.1 408 ", await headers);
        Assert.StartsWith("HTTP/1.1 408 ", await body);
        await target.StillServesAsync();
    }

    [Fact]
    public async Task Clients_that_vanish_or_never_read_leave_nothing_behind()
    {
        const int Clients = 40;
        string Request(int i) => $"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {Target.Key}\r\nContent-Type: application/json\r\nContent-Length: 77\r\n\r\n" + $$"""{"prompt":[5,6,7],"max_tokens":{{90 + (i % 9)}},"ignore_eos":true,"stream":{{(i % 2 == 0 ? "true " : "false")}}}""".PadRight(77);
        var clients = new List<TcpClient>();
        for (int i = 0; i < Clients; i++)
        {
            var client = new TcpClient();
            clients.Add(client);
            await client.ConnectAsync(IPAddress.Loopback, target.Port, Cancellation);
            await client.GetStream().WriteAsync(Encoding.ASCII.GetBytes(Request(i)), Cancellation);
        }

        while (target.Server.Engine.Status.GeneratedTokens < 20)
        {
            await Task.Delay(5, Cancellation);
        }

        // Gone without a word: a reset instead of an orderly end.
        clients.ForEach(c =>
        {
            c.Client.LingerState = new LingerOption(true, 0);
            c.Dispose();
        });
        await target.StillServesAsync();
        for (int i = 0; i < 500 && target.Server.Engine.Status is { Running: > 0 } or { Waiting: > 0 }; i++)
        {
            await Task.Delay(10, Cancellation);
        }

        EngineStatus status = target.Server.Engine.Status;
        Assert.Equal((0, 0, 0), (status.Running, status.Waiting, status.CachedTokens));
    }

    private async Task RefusedAsync(HttpStatusCode expected, string path, string body)
    {
        using HttpResponseMessage response = await PostAsync(path, body);
        string answer = await response.Content.ReadAsStringAsync(Cancellation);
        Assert.True(response.StatusCode == expected, $"{response.StatusCode} {answer}");
        Assert.InRange(answer.Length, 1, 2000);
        await target.StillServesAsync();
    }

    private Task<HttpResponseMessage> PostAsync(string path, string body) => target.Server.Client.PostAsync(path, new StringContent(body, Encoding.UTF8, "application/json"), Cancellation);

    /// <summary>The server under attack.</summary>
    public sealed class Target : IAsyncLifetime
    {
        public const string Key = "key-of-the-test";

        private readonly TemporaryFolder _folder = new();
        private RunningServer? _server;

        internal RunningServer Server => _server!;

        public int Port => Server.Client.BaseAddress!.Port;

        public async ValueTask InitializeAsync()
        {
            string adapters = Path.Combine(_folder.Path, "adapters");
            string source = Fixtures.Path("mixed_batch/a");
            foreach (string folder in (string[])["adapters/a", "secret"])
            {
                string copy = Path.Combine(_folder.Path, folder);
                Directory.CreateDirectory(copy);
                Array.ForEach(Directory.GetFiles(source), f => File.Copy(f, Path.Combine(copy, Path.GetFileName(f))));
            }

            Directory.CreateSymbolicLink(Path.Combine(adapters, "link"), Path.Combine(_folder.Path, "secret"));
            var options = new ServerOptions { ModelName = "attacked", ApiKeys = [Key], AdapterFolders = [adapters], HeadersTimeout = TimeSpan.FromSeconds(2) };
            _server = await RunningServer.StartAsync(Fixtures.Path("models/llama"), options: options, limits: new EngineLimits { MaxBatch = 4 });
            _server.Client.DefaultRequestHeaders.Authorization = new("Bearer", Key);
        }

        public Task<string> RawAsync(string request) => RawHttp.SendAsync(Port, request);

        public async Task StillServesAsync()
        {
            (HttpStatusCode status, JsonObject body) = await Server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = new JsonArray(5, 6, 7), ["max_tokens"] = 1, ["temperature"] = 0, ["logprobs"] = 0, ["return_tokens_as_token_ids"] = true });
            Assert.Equal(HttpStatusCode.OK, status);
            Assert.Single(body["choices"]![0]!["logprobs"]!["tokens"]!.AsArray());
        }

        public async ValueTask DisposeAsync()
        {
            await Server.DisposeAsync();
            _folder.Dispose();
        }
    }
}

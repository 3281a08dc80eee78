using System.Collections.Concurrent;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Formats.Tests.Hub;

/// <summary>
/// A hub on this machine: its API, downloads that redirect to a second host, range requests, and faults on demand.
/// </summary>
internal sealed class FakeHub : IAsyncDisposable
{
    public const string Commit = "0123456789abcdef0123456789abcdef01234567";

    private readonly WebApplication _hub;
    private readonly WebApplication _cdn;

    private FakeHub()
    {
        _hub = CreateHost();
        _cdn = CreateHost();
        _hub.Run(ServeHubAsync);
        _cdn.Run(ServeCdnAsync);
    }

    /// <summary>Files of org/model by path. Those above 100 bytes are "large" and come from the second host.</summary>
    public Dictionary<string, byte[]> Files { get; } = [];

    public string? RequiredToken { get; set; }

    public bool Gated { get; set; }

    /// <summary>Connections that break after so many bytes, one after another.</summary>
    public ConcurrentQueue<int> Drops { get; } = new();

    /// <summary>Bodies whose content is turned over, one after another.</summary>
    public int CorruptBodies { get; set; }

    public bool IgnoreRanges { get; set; }

    public int ServerErrors { get; set; }

    public string? AnnouncedPath { get; set; }

    public long? AnnouncedSize { get; set; }

    public string? LfsChunkSize { get; set; }

    public ConcurrentBag<string> Requests { get; } = [];

    public ConcurrentBag<string> TokensAtCdn { get; } = [];

    public ConcurrentDictionary<string, byte[]> Uploaded { get; } = new();

    public List<JsonObject> CommitLines { get; } = [];

    public JsonObject? Created { get; private set; }

    public Uri Address => AddressOf(_hub);

    public static async Task<FakeHub> StartAsync()
    {
        var hub = new FakeHub();
        await hub._hub.StartAsync();
        await hub._cdn.StartAsync();
        return hub;
    }

    public async ValueTask DisposeAsync()
    {
        await _hub.DisposeAsync();
        await _cdn.DisposeAsync();
    }

    public static string Etag(byte[] content) => content.Length > 100
        ? Convert.ToHexStringLower(SHA256.HashData(content))
        : Convert.ToHexStringLower(SHA1.HashData([.. Encoding.ASCII.GetBytes($"blob {content.Length}\0"), .. content]));

    private static WebApplication CreateHost()
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.UseUrls("http://127.0.0.1:0");
        return builder.Build();
    }

    private static Uri AddressOf(WebApplication host) => new(host.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.First());

    private async Task ServeHubAsync(HttpContext context)
    {
        string path = context.Request.Path.Value!;
        Requests.Add($"{context.Request.Method} {path}");
        if (ServerErrors > 0)
        {
            ServerErrors--;
            context.Response.StatusCode = 503;
            return;
        }

        string? token = context.Request.Headers.Authorization.FirstOrDefault()?.Replace("Bearer ", string.Empty, StringComparison.Ordinal);
        if (Gated || (RequiredToken is not null && token != RequiredToken))
        {
            context.Response.StatusCode = token is null ? 401 : 403;
            context.Response.Headers["X-Error-Code"] = Gated ? "GatedRepo" : "RepoNotFound";
            context.Response.Headers["X-Error-Message"] = "Access to model org/model is restricted.";
            return;
        }

        if (context.Request.Method is "POST" or "PUT")
        {
            await ServeUploadAsync(context, path);
        }
        else if (path.StartsWith("/api/models/org/model/revision/", StringComparison.Ordinal))
        {
            await ServeListAsync(context, Uri.UnescapeDataString(path["/api/models/org/model/revision/".Length..]));
        }
        else if (path.StartsWith($"/org/model/resolve/{Commit}/", StringComparison.Ordinal) && Files.TryGetValue(path[$"/org/model/resolve/{Commit}/".Length..], out byte[]? content))
        {
            await ServeFileAsync(context, path, content);
        }
        else
        {
            context.Response.StatusCode = 404;
            context.Response.Headers["X-Error-Code"] = "RepoNotFound";
        }
    }

    private async Task ServeListAsync(HttpContext context, string revision)
    {
        if (revision is not ("main" or "refs/pr/1" or Commit))
        {
            context.Response.StatusCode = 404;
            context.Response.Headers["X-Error-Code"] = "RevisionNotFound";
            return;
        }

        var files = Files.Select(file => (JsonNode?)new JsonObject { ["rfilename"] = AnnouncedPath ?? file.Key, ["size"] = file.Value.Length }).ToArray();
        await context.Response.WriteAsync(new JsonObject { ["sha"] = Commit, ["siblings"] = new JsonArray(files) }.ToJsonString());
    }

    private async Task ServeFileAsync(HttpContext context, string path, byte[] content)
    {
        context.Response.Headers["X-Repo-Commit"] = Commit;
        if (content.Length > 100)
        {
            context.Response.Headers["X-Linked-Etag"] = $"\"{Etag(content)}\"";
            context.Response.Headers["X-Linked-Size"] = (AnnouncedSize ?? content.Length).ToString(System.Globalization.CultureInfo.InvariantCulture);
            context.Response.Headers.ETag = "\"something-else\"";
            context.Response.StatusCode = 302;
            context.Response.Headers.Location = $"{AddressOf(_cdn)}cdn?file={Uri.EscapeDataString(path[$"/org/model/resolve/{Commit}/".Length..])}&signature=x";
            return;
        }

        context.Response.Headers.ETag = $"\"{Etag(content)}\"";
        context.Response.ContentLength = content.Length;
        if (context.Request.Method != "HEAD")
        {
            await context.Response.Body.WriteAsync(Spoil(content));
        }
    }

    private async Task ServeCdnAsync(HttpContext context)
    {
        if (context.Request.Headers.Authorization.FirstOrDefault() is { } token)
        {
            TokensAtCdn.Add(token);
        }

        string file = context.Request.Query["file"].ToString();
        Requests.Add($"CDN {context.Request.Method} {file} {context.Request.Headers.Range}");
        if (context.Request.Method == "PUT")
        {
            using var body = new MemoryStream();
            await context.Request.Body.CopyToAsync(body);
            Uploaded[file] = body.ToArray();
            context.Response.Headers.ETag = $"\"part-{file}\"";
            return;
        }

        byte[] content = Spoil(Files[file]);
        int start = 0;
        string range = context.Request.Headers.Range.ToString();
        if (range.Length > 0 && !IgnoreRanges)
        {
            start = int.Parse(range["bytes=".Length..^1], System.Globalization.CultureInfo.InvariantCulture);
            context.Response.StatusCode = 206;
            context.Response.Headers.ContentRange = $"bytes {start}-{content.Length - 1}/{content.Length}";
        }

        context.Response.ContentLength = content.Length - start;
        bool drop = Drops.TryDequeue(out int after);
        await context.Response.Body.WriteAsync(content.AsMemory(start, drop ? Math.Min(after, content.Length - start) : content.Length - start));
        if (drop)
        {
            await context.Response.Body.FlushAsync();
            await Task.Delay(50);
            context.Abort();
        }
    }

    private byte[] Spoil(byte[] content)
    {
        if (CorruptBodies <= 0)
        {
            return content;
        }

        CorruptBodies--;
        byte[] spoiled = [.. content];
        spoiled[^1] ^= 0xFF;
        return spoiled;
    }

    private async Task ServeUploadAsync(HttpContext context, string path)
    {
        using var reader = new StreamReader(context.Request.Body);
        string body = await reader.ReadToEndAsync();
        switch (path)
        {
            case "/api/repos/create":
                Created = JsonNode.Parse(body)!.AsObject();
                context.Response.StatusCode = Files.Count > 0 ? 409 : 200;
                await context.Response.WriteAsync("""{"url": "x"}""");
                break;
            case "/api/models/org/model/preupload/main":
                IEnumerable<JsonNode?> modes = JsonNode.Parse(body)!["files"]!.AsArray().Select(file => (JsonNode?)new JsonObject { ["path"] = file!["path"]!.DeepClone(), ["uploadMode"] = (long)file["size"]! > 100 ? "lfs" : "regular" });
                await context.Response.WriteAsync(new JsonObject { ["files"] = new JsonArray(modes.ToArray()) }.ToJsonString());
                break;
            case "/org/model.git/info/lfs/objects/batch":
                await ServeBatchAsync(context, JsonNode.Parse(body)!["objects"]![0]!.AsObject());
                break;
            case "/complete" or "/verify":
                Uploaded[path] = Encoding.UTF8.GetBytes(body);
                break;
            case "/api/models/org/model/commit/main":
                CommitLines.AddRange(body.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonNode.Parse(line)!.AsObject()));
                await context.Response.WriteAsync($$"""{"commitOid": "{{Commit}}", "commitUrl": "x"}""");
                break;
            default:
                context.Response.StatusCode = 404;
                break;
        }
    }

    private async Task ServeBatchAsync(HttpContext context, JsonObject wanted)
    {
        var header = new JsonObject();
        string href = $"{AddressOf(_cdn)}cdn?file=whole";
        if (LfsChunkSize is not null)
        {
            long size = (long)wanted["size"]!;
            long chunk = long.Parse(LfsChunkSize, System.Globalization.CultureInfo.InvariantCulture);
            header["chunk_size"] = LfsChunkSize;
            for (int i = 1; i <= (size + chunk - 1) / chunk; i++)
            {
                header[$"{i:00}"] = $"{AddressOf(_cdn)}cdn?file=part{i}";
            }

            href = $"{Address}complete";
        }

        var actions = new JsonObject { ["upload"] = new JsonObject { ["href"] = href, ["header"] = header }, ["verify"] = new JsonObject { ["href"] = $"{Address}verify" } };
        await context.Response.WriteAsync(new JsonObject { ["objects"] = new JsonArray(new JsonObject { ["oid"] = wanted["oid"]!.DeepClone(), ["actions"] = actions }) }.ToJsonString());
    }
}

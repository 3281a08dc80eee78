using System.Net;
using System.Net.Http.Headers;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Hub;

/// <summary>Uploads: create the repository, ask which files are large, store those, commit all.</summary>
public sealed partial class HubClient
{
    private const int SampleLength = 512;

    private static readonly MediaTypeHeaderValue LfsMedia = MediaTypeHeaderValue.Parse("application/vnd.git-lfs+json");

    /// <summary>Uploads the files of an adapter folder in one commit.</summary>
    /// <param name="folder">The folder, with <c>adapter_config.json</c> (or a model's <c>config.json</c>).</param>
    /// <param name="name">Where to; the repository is created when it is not there.</param>
    /// <param name="message">The commit's message.</param>
    /// <param name="isPrivate">Whether a new repository is private.</param>
    /// <param name="filter">Which files; null: those at the top of the folder.</param>
    /// <param name="progress">Is told how far each file is.</param>
    /// <param name="cancellation">Stops; nothing is committed then.</param>
    /// <exception cref="HubException">There is no token, it does not suffice, or the hub cannot be reached.</exception>
    public async Task<PushResult> PushAsync(string folder, HubName name, string message = "Upload adapter", bool isPrivate = false, FileFilter? filter = null, IProgress<TransferProgress>? progress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(name);
        LocalFile[] files = Collect(folder, filter);
        if (_settings.Offline)
        {
            throw new HubException(HubFault.Offline, "HF_HUB_OFFLINE is set; unset it to upload.");
        }

        if (_settings.Token is null)
        {
            throw new HubException(HubFault.Unauthorized, "An upload needs an access token with write permission: set HF_TOKEN, or save one with 'hf auth login'.");
        }

        await CreateRepositoryAsync(name, isPrivate, cancellation);
        HashSet<string> large = await AskModesAsync(name, files, cancellation);
        foreach (LocalFile file in files.Where(file => large.Contains(file.Name)))
        {
            progress?.Report(new TransferProgress(file.Name, 0, file.Size, TransferState.Moving));
            await StoreAsync(name, file, progress, cancellation);
        }

        JsonObject commit = await CommitAsync(name, files, large, message, cancellation);
        foreach (LocalFile file in files)
        {
            progress?.Report(new TransferProgress(file.Name, file.Size, file.Size, TransferState.Done));
        }

        return new PushResult(name.Repository, commit["commitOid"]?.ToString() ?? string.Empty, _http.Address(name.Repository).AbsoluteUri, files.Select(file => file.Name).ToArray());
    }

    private static LocalFile[] Collect(string folder, FileFilter? filter)
    {
        if (!Directory.Exists(folder))
        {
            throw new HubException(HubFault.BadRequest, $"{folder}: there is no such folder. Expected an adapter folder with adapter_config.json.");
        }

        if (!File.Exists(Path.Combine(folder, "adapter_config.json")) && !File.Exists(Path.Combine(folder, "config.json")))
        {
            throw new HubException(HubFault.BadRequest, $"{folder}: there is neither adapter_config.json nor config.json. Expected the folder that 'lora train' or 'lora merge' wrote.");
        }

        LocalFile[] files = Directory.EnumerateFiles(folder, "*", filter is { Include.Count: > 0 } ? SearchOption.AllDirectories : SearchOption.TopDirectoryOnly)
            .Select(path => new LocalFile(Path.GetRelativePath(folder, path).Replace('\\', '/'), path, (File.ResolveLinkTarget(path, returnFinalTarget: true) as FileInfo ?? new FileInfo(path)).Length))
            .Where(file => !file.Name.StartsWith('.') && !file.Name.EndsWith(".tmp", StringComparison.Ordinal))
            .Where(file => filter is null || (filter.Include.Count == 0 ? filter.Exclude.Count == 0 || new FileFilter(["*"], filter.Exclude).Matches(file.Name) : filter.Matches(file.Name)))
            .OrderBy(file => file.Name, StringComparer.Ordinal)
            .ToArray();
        return files.Length > 0 ? files : throw new HubException(HubFault.BadRequest, $"{folder}: no file matches --include and --exclude.");
    }

    private async Task CreateRepositoryAsync(HubName name, bool isPrivate, CancellationToken cancellation)
    {
        string[] parts = name.Repository.Split('/');
        var body = new JsonObject { ["name"] = parts[^1], ["type"] = "model", ["private"] = isPrivate };
        if (parts.Length == 2)
        {
            body["organization"] = parts[0];
        }

        using HttpResponseMessage response = await _http.SendAsync(() => Post(_http.Address("api/repos/create"), Json(body)), (_, _) => true, cancellation);
        // 409: it is there already.
        if (!response.IsSuccessStatusCode && response.StatusCode != HttpStatusCode.Conflict)
        {
            throw await _http.RefusalAsync(response, name, cancellation);
        }
    }

    private async Task<HashSet<string>> AskModesAsync(HubName name, IReadOnlyList<LocalFile> files, CancellationToken cancellation)
    {
        var body = new JsonObject
        {
            ["files"] = new JsonArray(files.Select(file => (JsonNode?)new JsonObject { ["path"] = file.Name, ["size"] = file.Size, ["sample"] = Convert.ToBase64String(Sample(file.Path)) }).ToArray()),
        };
        JsonObject answer = await PostJsonAsync(name, _http.Address($"api/models/{HubHttp.Escape(name.Repository)}/preupload/{Uri.EscapeDataString(name.Revision)}"), () => Json(body), cancellation);
        return [.. (answer["files"] as JsonArray ?? []).Where(file => file?["uploadMode"]?.ToString() == "lfs").Select(file => file!["path"]!.ToString())];
    }

    // Git LFS batch API (git-lfs, docs/api/batch.md) with the hub's multipart extension: an upload in parts when the header
    // has a chunk_size, otherwise in one piece.
    private async Task StoreAsync(HubName name, LocalFile file, IProgress<TransferProgress>? progress, CancellationToken cancellation)
    {
        string oid = await Sha256Async(file.Path, cancellation);
        var body = new JsonObject
        {
            ["operation"] = "upload",
            ["transfers"] = new JsonArray("basic", "multipart"),
            ["objects"] = new JsonArray(new JsonObject { ["oid"] = oid, ["size"] = file.Size }),
            ["hash_algo"] = "sha256",
        };
        JsonObject answer = await PostJsonAsync(name, _http.Address($"{HubHttp.Escape(name.Repository)}.git/info/lfs/objects/batch"), () => Json(body, LfsMedia), cancellation, LfsMedia.MediaType);
        JsonObject? entry = (answer["objects"] as JsonArray)?.FirstOrDefault() as JsonObject;
        if (entry?["error"] is JsonObject error)
        {
            throw new HubException(HubFault.Unauthorized, $"{name.Repository}: the hub does not take {file.Name}: {error["message"]}.");
        }

        // Without actions the hub has the file already.
        if (entry?["actions"]?["upload"] is not JsonObject upload)
        {
            return;
        }

        Uri address = UploadAddress(upload);
        JsonObject headers = upload["header"] as JsonObject ?? [];
        if (headers["chunk_size"]?.ToString() is { } chunk && long.TryParse(chunk, out long chunkSize) && chunkSize > 0)
        {
            await StorePartsAsync(name, file, oid, address, headers, chunkSize, progress, cancellation);
        }
        else
        {
            using HttpResponseMessage stored = await PutAsync(name, address, file.Path, 0, file.Size, headers, cancellation);
        }

        if (entry["actions"]?["verify"] is JsonObject verify)
        {
            await PostJsonAsync(name, UploadAddress(verify), () => Json(new JsonObject { ["oid"] = oid, ["size"] = file.Size }, LfsMedia), cancellation, LfsMedia.MediaType, mayBeEmpty: true);
        }
    }

    private async Task StorePartsAsync(HubName name, LocalFile file, string oid, Uri complete, JsonObject headers, long chunkSize, IProgress<TransferProgress>? progress, CancellationToken cancellation)
    {
        string[] addresses = [.. headers.Where(header => int.TryParse(header.Key, out _)).OrderBy(header => int.Parse(header.Key, System.Globalization.CultureInfo.InvariantCulture)).Select(header => header.Value!.ToString())];
        if (addresses.Length != (file.Size + chunkSize - 1) / chunkSize)
        {
            throw new HubException(HubFault.Malformed, $"{name.Repository}: {file.Name} has {file.Size} bytes; the hub offers {addresses.Length} parts of {chunkSize}.");
        }

        var parts = new JsonArray();
        for (int i = 0; i < addresses.Length; i++)
        {
            long start = i * chunkSize;
            using HttpResponseMessage response = await PutAsync(name, new Uri(addresses[i]), file.Path, start, Math.Min(chunkSize, file.Size - start), [], cancellation);
            parts.Add(new JsonObject { ["partNumber"] = i + 1, ["etag"] = HubHttp.Header(response, "ETag") });
            progress?.Report(new TransferProgress(file.Name, Math.Min(file.Size, start + chunkSize), file.Size, TransferState.Moving));
        }

        await PostJsonAsync(name, complete, () => Json(new JsonObject { ["oid"] = oid, ["parts"] = parts.DeepClone() }, LfsMedia), cancellation, LfsMedia.MediaType, mayBeEmpty: true);
    }

    private async Task<HttpResponseMessage> PutAsync(HubName name, Uri address, string path, long start, long length, JsonObject headers, CancellationToken cancellation)
    {
        HttpResponseMessage response = await _http.SendAsync(
            () =>
            {
                var content = new StreamContent(new FileSlice(path, start, length), 1 << 20);
                content.Headers.ContentLength = length;
                var request = new HttpRequestMessage(HttpMethod.Put, address) { Content = content };
                foreach ((string key, JsonNode? value) in headers.Where(header => header.Key != "chunk_size" && !int.TryParse(header.Key, out _)))
                {
                    if (!request.Headers.TryAddWithoutValidation(key, value?.ToString()))
                    {
                        content.Headers.TryAddWithoutValidation(key, value?.ToString());
                    }
                }

                return request;
            },
            (_, _) => true,
            cancellation);
        if (response.IsSuccessStatusCode)
        {
            return response;
        }

        using (response)
        {
            throw await _http.RefusalAsync(response, name, cancellation);
        }
    }

    private async Task<JsonObject> CommitAsync(HubName name, IReadOnlyList<LocalFile> files, HashSet<string> large, string message, CancellationToken cancellation)
    {
        var lines = new StringBuilder();
        Add("header", new JsonObject { ["summary"] = message, ["description"] = string.Empty });
        foreach (LocalFile file in files)
        {
            if (large.Contains(file.Name))
            {
                Add("lfsFile", new JsonObject { ["path"] = file.Name, ["algo"] = "sha256", ["oid"] = await Sha256Async(file.Path, cancellation), ["size"] = file.Size });
            }
            else
            {
                Add("file", new JsonObject { ["content"] = Convert.ToBase64String(await File.ReadAllBytesAsync(file.Path, cancellation)), ["path"] = file.Name, ["encoding"] = "base64" });
            }
        }

        string body = lines.ToString();
        return await PostJsonAsync(
            name,
            _http.Address($"api/models/{HubHttp.Escape(name.Repository)}/commit/{Uri.EscapeDataString(name.Revision)}"),
            () => new StringContent(body, Encoding.UTF8, MediaTypeHeaderValue.Parse("application/x-ndjson")),
            cancellation);

        void Add(string key, JsonObject value) => lines.Append(new JsonObject { ["key"] = key, ["value"] = value }.ToJsonString()).Append('\n');
    }

    private async Task<JsonObject> PostJsonAsync(HubName name, Uri address, Func<HttpContent> content, CancellationToken cancellation, string? accept = null, bool mayBeEmpty = false)
    {
        using HttpResponseMessage response = await _http.SendAsync(
            () =>
            {
                HttpRequestMessage request = Post(address, content());
                if (accept is not null)
                {
                    request.Headers.Accept.ParseAdd(accept);
                }

                return request;
            },
            (_, _) => true,
            cancellation);
        if (!response.IsSuccessStatusCode)
        {
            throw await _http.RefusalAsync(response, name, cancellation);
        }

        return mayBeEmpty ? [] : await HubHttp.ReadJsonAsync(response, cancellation);
    }

    private static HttpRequestMessage Post(Uri address, HttpContent content) => new(HttpMethod.Post, address) { Content = content };

    private static StringContent Json(JsonObject body, MediaTypeHeaderValue? media = null) => new(body.ToJsonString(), Encoding.UTF8, media ?? MediaTypeHeaderValue.Parse("application/json"));

    private static Uri UploadAddress(JsonObject action) => Uri.TryCreate(action["href"]?.ToString(), UriKind.Absolute, out Uri? address) && address.Scheme is "http" or "https"
        ? address
        : throw new HubException(HubFault.Malformed, $"The hub's upload address is '{action["href"]}'; expected http or https.");

    private static byte[] Sample(string path)
    {
        using FileStream file = File.OpenRead(path);
        byte[] sample = new byte[(int)Math.Min(SampleLength, file.Length)];
        file.ReadExactly(sample);
        return sample;
    }

    private static async Task<string> Sha256Async(string path, CancellationToken cancellation)
    {
        await using FileStream file = File.OpenRead(path);
        return Convert.ToHexStringLower(await SHA256.HashDataAsync(file, cancellation));
    }

    private sealed record LocalFile(string Name, string Path, long Size);
}

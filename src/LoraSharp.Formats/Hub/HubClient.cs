using System.Globalization;
using System.Net;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.Hub;

/// <summary>Downloads from the hub into its cache, and uploads adapters. Safe for concurrent use.</summary>
public sealed partial class HubClient : IDisposable
{
    private const int MostFiles = 100_000;

    private readonly HubSettings _settings;
    private readonly HubHttp _http;

    /// <summary>A client.</summary>
    /// <param name="settings">Where the hub is, and who we are there.</param>
    /// <param name="handler">What sends requests, without following redirects; null: a handler of its own.</param>
    public HubClient(HubSettings settings, HttpMessageHandler? handler = null)
    {
        ArgumentNullException.ThrowIfNull(settings);
        _settings = settings;
        _http = new HubHttp(settings, handler);
        Cache = new HubCache(settings.CacheFolder);
    }

    /// <summary>The cache that is downloaded into.</summary>
    public HubCache Cache { get; }

    /// <inheritdoc/>
    public void Dispose() => _http.Dispose();

    /// <summary>What a repository holds.</summary>
    /// <exception cref="HubException">It is not there, is gated, or the hub cannot be reached.</exception>
    public async Task<RepositoryContents> ListAsync(HubName name, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(name);
        Uri address = _http.Address($"api/models/{HubHttp.Escape(name.Repository)}/revision/{Uri.EscapeDataString(name.Revision)}?blobs=true");
        using HttpResponseMessage response = await _http.SendAsync(() => new HttpRequestMessage(HttpMethod.Get, address), (_, _) => true, cancellation);
        if (!response.IsSuccessStatusCode)
        {
            throw await _http.RefusalAsync(response, name, cancellation);
        }

        JsonObject answer = await HubHttp.ReadJsonAsync(response, cancellation);
        string commit = answer["sha"]?.ToString() ?? string.Empty;
        JsonArray files = answer["siblings"] as JsonArray ?? [];
        if (!HubCache.IsCommit(commit) || files.Count > MostFiles)
        {
            throw new HubException(HubFault.Malformed, $"{address}: expected a commit of 40 hexadecimal digits and at most {MostFiles} files, got '{commit}' and {files.Count}.");
        }

        return new RepositoryContents(commit, files.Select(file => new RepositoryFile(
            RepositoryFile.CheckPath(name, (file as JsonObject)?["rfilename"]?.ToString()),
            (file as JsonObject)?["size"] is JsonValue value && value.TryGetValue(out long size) && size >= 0 ? size : null)).ToArray());
    }

    /// <summary>
    /// Downloads a model or an adapter. What is in the cache is not downloaded again, what was begun is gone on with, and the
    /// branch's name points to the new snapshot only when all of its files are there.
    /// </summary>
    /// <param name="name">The repository and revision.</param>
    /// <param name="filter">Which files; null: those that a model or an adapter needs.</param>
    /// <param name="progress">Is told how far each file is, from several threads.</param>
    /// <param name="parallel">Files at once.</param>
    /// <param name="cancellation">Stops; what was downloaded stays for the next time.</param>
    /// <exception cref="HubException">The hub refuses or cannot be reached, a file is not what it should be, the disk is full.</exception>
    public async Task<PullResult> PullAsync(HubName name, FileFilter? filter = null, IProgress<TransferProgress>? progress = null, int parallel = 4, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(name);
        filter ??= FileFilter.Default;
        if (_settings.Offline)
        {
            string folder = Cache.ResolveSnapshot(name) ?? throw new HubException(HubFault.Offline, $"{name} is not in the cache {Cache.Folder}, and HF_HUB_OFFLINE forbids to download it. {Cache.Describe(name)}");
            return new PullResult(name, Path.GetFileName(folder), folder, FilesIn(folder), 0);
        }

        RepositoryContents contents = await ListAsync(name, cancellation);
        RepositoryFile[] wanted = contents.Files.Where(file => filter.Matches(file.Path)).ToArray();
        if (wanted.Length == 0)
        {
            throw NothingWanted(name, contents, filter);
        }

        CheckRoom(name, contents.Commit, wanted);
        foreach (RepositoryFile file in wanted)
        {
            progress?.Report(new TransferProgress(file.Path, 0, file.Size ?? 0, TransferState.Waiting));
        }

        long moved = 0;
        try
        {
            await Parallel.ForEachAsync(wanted, new ParallelOptions { MaxDegreeOfParallelism = Math.Max(1, parallel), CancellationToken = cancellation }, async (file, token) =>
                Interlocked.Add(ref moved, await PullFileAsync(name, contents.Commit, file, progress, token)));
        }
        catch (IOException error)
        {
            throw new HubException(
                BlobDownload.IsDiskFull(error) ? HubFault.DiskFull : HubFault.BadRequest,
                $"The cache {Cache.Folder} cannot be written: {error.Message} Free some space, or set HF_HUB_CACHE to a folder with more. What was downloaded is kept.",
                error);
        }

        Cache.WriteReference(name, contents.Commit);
        return new PullResult(name, contents.Commit, Cache.SnapshotFolder(name, contents.Commit), wanted.Select(file => file.Path).ToArray(), moved);
    }

    private async Task<long> PullFileAsync(HubName name, string commit, RepositoryFile file, IProgress<TransferProgress>? progress, CancellationToken cancellation)
    {
        BlobDownload.Source source = await FindBlobAsync(name, commit, file, cancellation);
        string blob = Cache.BlobPath(name, source.Etag);
        long moved = 0;
        Directory.CreateDirectory(Path.GetDirectoryName(blob)!);
        bool present = IsWhole(blob, source.Size);
        if (!present)
        {
            using FileStream blobLock = await LockAsync(Cache.LockPath(name, source.Etag), cancellation);
            // Somebody else may have got it while we waited.
            if (!IsWhole(blob, source.Size))
            {
                moved = await new BlobDownload(_http, _settings, name, source, blob, update => progress?.Report(update)).RunAsync(cancellation);
            }
        }

        Cache.Link(name, commit, file.Path, source.Etag);
        progress?.Report(new TransferProgress(file.Path, source.Size, source.Size, present ? TransferState.Present : TransferState.Done));
        return moved;
    }

    private static bool IsWhole(string blob, long size) => File.Exists(blob) && new FileInfo(blob).Length == size;

    // The hub answers a HEAD with the digest and length of the file and, for a large one, with a redirect to where it is kept.
    private async Task<BlobDownload.Source> FindBlobAsync(HubName name, string commit, RepositoryFile file, CancellationToken cancellation)
    {
        Uri address = _http.Address($"{HubHttp.Escape(name.Repository)}/resolve/{commit}/{HubHttp.Escape(file.Path)}");
        using HttpResponseMessage response = await _http.SendAsync(
            () =>
            {
                var request = new HttpRequestMessage(HttpMethod.Head, address);
                request.Headers.AcceptEncoding.ParseAdd("identity");
                return request;
            },
            (from, to) => from.Host == to.Host && from.Port == to.Port,
            cancellation);
        if ((int)response.StatusCode is >= 400)
        {
            throw await _http.RefusalAsync(response, name, cancellation);
        }

        string? announced = HubHttp.Header(response, "X-Repo-Commit");
        if (announced is not null && announced != commit)
        {
            throw new HubException(HubFault.Malformed, $"{name}: {file.Path} was asked for at commit {commit}, and the server answers for {announced}.");
        }

        string etag = CleanEtag(HubHttp.Header(response, "X-Linked-Etag") ?? HubHttp.Header(response, "ETag"));
        string? sizeText = HubHttp.Header(response, "X-Linked-Size") ?? (response.StatusCode == HttpStatusCode.OK ? HubHttp.Header(response, "Content-Length") : null);
        long size = long.TryParse(sizeText, out long given) && given >= 0 ? given : file.Size
            ?? throw new HubException(HubFault.Malformed, $"{name}: the server does not say how long {file.Path} is.");
        if (etag.Length == 0)
        {
            throw new HubException(HubFault.Malformed, $"{name}: the server gives no ETag for {file.Path}. Is HF_ENDPOINT a hub?");
        }

        if (file.Size is { } listed && listed != size)
        {
            throw new HubException(HubFault.Malformed, $"{name}: {file.Path} has {listed} bytes in the hub's list and {size} where it is kept.");
        }

        return new BlobDownload.Source(file.Path, address, etag, size);
    }

    // An etag becomes a file name.
    private static string CleanEtag(string? etag)
    {
        string clean = (etag ?? string.Empty).Replace("W/", string.Empty, StringComparison.Ordinal).Trim('"');
        return clean.Length <= 128 && clean.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_') ? clean : string.Empty;
    }

    private static async Task<FileStream> LockAsync(string path, CancellationToken cancellation)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        while (true)
        {
            try
            {
                // On Unix this is flock, which huggingface_hub takes too.
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException error) when (!BlobDownload.IsDiskFull(error) && File.Exists(path))
            {
                await Task.Delay(200, cancellation);
            }
        }
    }

    private void CheckRoom(HubName name, string commit, IReadOnlyList<RepositoryFile> wanted)
    {
        long needed = wanted.Where(file => !File.Exists(Path.Combine(Cache.SnapshotFolder(name, commit), file.Path))).Sum(file => file.Size ?? 0);
        Directory.CreateDirectory(Cache.Folder);
        long free = new DriveInfo(Cache.Folder).AvailableFreeSpace;
        if (needed > free)
        {
            throw new HubException(HubFault.DiskFull, $"{name} needs {Megabytes(needed)} and {Cache.Folder} has {Megabytes(free)} free. Free some space, or set HF_HUB_CACHE to a folder with more.");
        }

        static string Megabytes(long bytes) => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e6:N0} MB");
    }

    private static HubException NothingWanted(HubName name, RepositoryContents contents, FileFilter filter)
    {
        string[] others = contents.Files.Select(file => Path.GetExtension(file.Path)).Where(extension => extension.Length > 0).Distinct().Order(StringComparer.Ordinal).ToArray();
        string advice = filter.Include.Count + filter.Exclude.Count > 0 ? "No file matches --include and --exclude."
            : others.Contains(".gguf") ? "It holds GGUF files; choose one with --include, e.g. --include '*q4_k_m.gguf'."
            : others.Any(extension => extension is ".bin" or ".pt" or ".pth") ? "It holds pickled weights only, which can run code when they are read and are therefore not supported; look for a version with safetensors."
            : "It holds no model and no adapter.";
        return new HubException(HubFault.BadRequest, $"{name} has {contents.Files.Count} files ({string.Join(", ", others.Take(12))}) and none that is wanted. {advice}");
    }

    private static string[] FilesIn(string folder) => Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories)
        .Select(path => Path.GetRelativePath(folder, path).Replace('\\', '/')).Order(StringComparer.Ordinal).ToArray();
}

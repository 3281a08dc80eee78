namespace LoraSharp.Formats.Hub;

/// <summary>
/// The hub cache on disk, in the layout that huggingface_hub reads and writes: <c>models--org--name/{blobs,snapshots,refs}</c>.
/// Nothing here touches the network.
/// </summary>
public sealed class HubCache
{
    private const int CommitLength = 40;

    // What git and the hub's pages show of a commit; fewer digits may as well be a branch.
    private const int ShortestCommit = 7;

    /// <summary>A cache in a folder, which need not exist.</summary>
    public HubCache(string folder) => Folder = Path.GetFullPath(folder);

    /// <summary>The cache's folder.</summary>
    public string Folder { get; }

    /// <summary>The cache that the environment names.</summary>
    public static HubCache FromEnvironment() => new(HubSettings.FromEnvironment().CacheFolder);

    /// <summary>The snapshot folder of a model or adapter.</summary>
    /// <param name="name"><c>org/name[@revision]</c>; the revision is a branch, a tag or a commit.</param>
    /// <returns>Null when it is no hub name, or is not in the cache.</returns>
    public string? ResolveSnapshot(string name) => HubName.TryParse(name, out HubName? parsed) ? ResolveSnapshot(parsed!) : null;

    /// <summary>The snapshot folder of a model or adapter; null when it is not in the cache.</summary>
    /// <exception cref="HubException">The revision is the beginning of several commits.</exception>
    public string? ResolveSnapshot(HubName name)
    {
        ArgumentNullException.ThrowIfNull(name);
        string? commit = IsCommit(name.Revision) ? name.Revision : ReadReference(name, name.Revision) ?? FindShort(name);
        if (commit is null || !IsCommit(commit))
        {
            return null;
        }

        string snapshot = SnapshotFolder(name, commit);
        return Directory.Exists(snapshot) ? snapshot : null;
    }

    /// <summary>The snapshot folder, or an error that says what is in the cache and how to get the rest.</summary>
    /// <exception cref="HubException">It is not in the cache.</exception>
    public string RequireSnapshot(string name)
    {
        HubName parsed = HubName.Parse(name);
        return ResolveSnapshot(parsed) ?? throw new HubException(HubFault.Offline, $"{parsed} is not in the cache {Folder}. {Describe(parsed)} Get it with: lora pull {parsed}");
    }

    /// <summary>
    /// The folder or file that a user means: what lies at this path, else the snapshot of the hub name (or, when that has no
    /// configuration, the one GGUF file in it). What can be neither is given back as it is.
    /// </summary>
    /// <exception cref="HubException">There is no such path, and the hub name that it could be is not in the cache, or files of it are gone.</exception>
    public string Locate(string pathOrName)
    {
        ArgumentNullException.ThrowIfNull(pathOrName);
        if (Directory.Exists(pathOrName) || File.Exists(pathOrName) || !HubName.TryParse(pathOrName, out HubName? name))
        {
            return pathOrName;
        }

        string snapshot = ResolveSnapshot(name!) ?? throw new HubException(
            HubFault.Offline,
            $"{pathOrName}: there is no such folder or file here, and no such model or adapter in the hub cache {Folder}. {Describe(name!)} "
                + (pathOrName.Contains('/', StringComparison.Ordinal) ? $"If it is on the hub, get it with: lora pull {name}" : $"Expected a folder, a file, or a name on the hub with its owner, as in org/{name}."));
        RequireLinks(name!, snapshot);
        if (File.Exists(Path.Combine(snapshot, "config.json")) || File.Exists(Path.Combine(snapshot, "adapter_config.json")))
        {
            return snapshot;
        }

        string[] files = Directory.GetFiles(snapshot, "*.gguf", SearchOption.AllDirectories);
        return files.Length == 1 ? files[0] : snapshot;
    }

    /// <summary>Repositories that have at least one snapshot, as <c>org/name</c>.</summary>
    public IReadOnlyList<string> Repositories() => !Directory.Exists(Folder)
        ? []
        : Directory.EnumerateDirectories(Folder, "models--*")
            .Where(folder => Directory.Exists(Path.Combine(folder, "snapshots")))
            .Select(folder => Path.GetFileName(folder)["models--".Length..].Replace("--", "/", StringComparison.Ordinal))
            .Order(StringComparer.Ordinal)
            .ToArray();

    /// <summary>A sentence or two on what is there, for an error about what is not.</summary>
    public string Describe(HubName wanted)
    {
        ArgumentNullException.ThrowIfNull(wanted);
        string[] commits = Commits(wanted);
        string[] usable = [.. References(wanted).Where(revision => ReadReference(wanted, revision) is { } commit && commits.Contains(commit, StringComparer.Ordinal))];
        string lost = ReadReference(wanted, wanted.Revision) switch
        {
            null => string.Empty,
            string commit when IsCommit(commit) => $"{wanted.Revision} is commit {Short(commit)}, whose files are not there. ",
            string text => $"refs/{wanted.Revision} holds no commit but '{(text.Length > 40 ? text[..40] + "..." : text)}'. ",
        };
        if (commits.Length > 0)
        {
            IEnumerable<string> named = usable.Concat(commits.Where(commit => !usable.Any(revision => ReadReference(wanted, revision) == commit)).Select(Short));
            return $"{lost}Of {wanted.Repository} there is: {string.Join(", ", named.Take(10).Select(revision => $"{wanted.Repository}@{revision}"))}.";
        }

        IReadOnlyList<string> repositories = [.. Repositories().Where(repository => repository != wanted.Repository)];
        return lost + (repositories.Count == 0 ? "The cache is empty." : $"There is: {string.Join(", ", repositories.Take(20))}{(repositories.Count > 20 ? $" and {repositories.Count - 20} more" : string.Empty)}.");
    }

    internal static bool IsCommit(string text) => text.Length == CommitLength && text.All(char.IsAsciiHexDigitLower);

    private static string Short(string commit) => commit[..12];

    private string? ReadReference(HubName name, string revision)
    {
        string path = Path.Combine(RepositoryFolder(name), "refs", revision);
        return File.Exists(path) ? File.ReadAllText(path).Trim() : null;
    }

    private string[] References(HubName name)
    {
        string folder = Path.Combine(RepositoryFolder(name), "refs");
        return Directory.Exists(folder) ? [.. Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories).Select(path => Path.GetRelativePath(folder, path)).Order(StringComparer.Ordinal)] : [];
    }

    private string[] Commits(HubName name)
    {
        string folder = Path.Combine(RepositoryFolder(name), "snapshots");
        return Directory.Exists(folder) ? [.. Directory.EnumerateDirectories(folder).Select(path => Path.GetFileName(path)!).Where(IsCommit).Order(StringComparer.Ordinal)] : [];
    }

    private string? FindShort(HubName name)
    {
        if (name.Revision.Length < ShortestCommit || !name.Revision.All(char.IsAsciiHexDigitLower))
        {
            return null;
        }

        string[] fitting = [.. Commits(name).Where(commit => commit.StartsWith(name.Revision, StringComparison.Ordinal))];
        return fitting.Length <= 1 ? fitting.FirstOrDefault() : throw new HubException(
            HubFault.BadRequest,
            $"{name}: several commits in the cache {Folder} begin so: {string.Join(", ", fitting.Take(10).Select(Short))}. Give more of it.");
    }

    // A cleaned or half-copied cache: said here, once, and not by whatever happens to read a file first.
    private static void RequireLinks(HubName name, string snapshot)
    {
        string[] broken = [.. new DirectoryInfo(snapshot).EnumerateFiles().Where(file => file.LinkTarget is not null && file.ResolveLinkTarget(returnFinalTarget: true) is not { Exists: true }).Select(file => file.Name).Order(StringComparer.Ordinal)];
        if (broken.Length > 0)
        {
            throw new HubException(HubFault.Corrupt, $"{snapshot}: {string.Join(", ", broken.Take(10))}{(broken.Length > 10 ? $" and {broken.Length - 10} more" : string.Empty)} are links to files of the cache that are gone. Get them again with: lora pull {name}");
        }
    }

    internal string RepositoryFolder(HubName name) => Path.Combine(Folder, name.FolderName);

    internal string SnapshotFolder(HubName name, string commit) => Path.Combine(RepositoryFolder(name), "snapshots", commit);

    internal string BlobPath(HubName name, string etag) => Path.Combine(RepositoryFolder(name), "blobs", etag);

    /// <summary>The lock that huggingface_hub takes for the same blob.</summary>
    internal string LockPath(HubName name, string etag) => Path.Combine(Folder, ".locks", name.FolderName, etag + ".lock");

    /// <summary>Notes which commit a branch or tag is, once its snapshot is whole.</summary>
    internal void WriteReference(HubName name, string commit)
    {
        string path = Path.Combine(RepositoryFolder(name), "refs", name.Revision);
        if (name.Revision != commit && !(File.Exists(path) && File.ReadAllText(path) == commit))
        {
            AtomicFile.WriteText(path, commit);
        }
    }

    /// <summary>
    /// Lays a file of a snapshot over its blob: a relative link, or a copy where the system allows no links. The name comes
    /// from a server; it was checked by <see cref="RepositoryFile.CheckPath"/> and is checked again against the folder here.
    /// </summary>
    internal string Link(HubName name, string commit, string file, string etag)
    {
        string snapshot = SnapshotFolder(name, commit);
        string path = Path.GetFullPath(Path.Combine(snapshot, file));
        if (!path.StartsWith(snapshot + Path.DirectorySeparatorChar, StringComparison.Ordinal))
        {
            throw new HubException(HubFault.Malformed, $"{name}: the server names a file '{file}' outside the repository. Nothing was written there.");
        }

        string blob = BlobPath(name, etag);
        string target = Path.GetRelativePath(Path.GetDirectoryName(path)!, blob);
        var existing = new FileInfo(path);
        if (existing.LinkTarget == target && File.Exists(path))
        {
            return path;
        }

        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        string aside = $"{path}.{Environment.ProcessId}.{Guid.NewGuid():N}.tmp";
        try
        {
            try
            {
                File.CreateSymbolicLink(aside, target);
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                File.Copy(blob, aside);
            }

            File.Move(aside, path, overwrite: true);
        }
        catch
        {
            File.Delete(aside);
            throw;
        }

        return path;
    }
}

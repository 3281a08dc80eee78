namespace LoraSharp.Server;

/// <summary>Paths that come over HTTP, held below the folders that whoever started the server named.</summary>
internal static class FolderBounds
{
    /// <summary>The full path, taken from the first folder below which it lies; null where it lies below none, or a link is on the way.</summary>
    public static string? Find(IEnumerable<string> folders, string path)
    {
        if (path.Contains('\0'))
        {
            return null;
        }

        foreach (string folder in folders)
        {
            string root = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
            string full = Path.GetFullPath(path, root);
            if (full.StartsWith(root + Path.DirectorySeparatorChar, StringComparison.Ordinal) && !HasLink(root, full))
            {
                return full;
            }
        }

        return null;
    }

    // A link below the folder may lead anywhere; who may write there is not who started the server.
    private static bool HasLink(string root, string full)
    {
        for (string? at = full; at is not null && at.Length > root.Length; at = Path.GetDirectoryName(at))
        {
            if (new DirectoryInfo(at).LinkTarget is not null || new FileInfo(at).LinkTarget is not null)
            {
                return true;
            }
        }

        return false;
    }
}

namespace LoraSharp.Formats.Hub;

/// <summary>A file of a repository.</summary>
/// <param name="Path">Its path there, with '/'.</param>
/// <param name="Size">Bytes; null when the hub does not say.</param>
public sealed record RepositoryFile(string Path, long? Size)
{
    private static readonly string[] ReservedNames = ["CON", "PRN", "AUX", "NUL"];

    /// <summary>Refuses names that would leave the repository's folder or mean something else to a file system.</summary>
    /// <exception cref="HubException">The name is one of those.</exception>
    internal static string CheckPath(HubName name, string? path)
    {
        bool valid = path is { Length: > 0 and <= 1024 }
            && !path.Any(c => c is '\\' or ':' or '<' or '>' or '"' or '|' or '?' or '*' || char.IsControl(c))
            && path.Split('/').All(part => part is not ("" or "." or "..") && part.Length <= 255 && !part.EndsWith(' ') && !part.EndsWith('.') && !ReservedNames.Contains(part.Split('.')[0].ToUpperInvariant()));
        return valid ? path! : throw new HubException(HubFault.Malformed, $"{name}: the server names a file '{path}', which is no path inside a repository. Nothing was written.");
    }
}

/// <summary>What a repository holds at one commit.</summary>
/// <param name="Commit">The commit, 40 hexadecimal digits.</param>
/// <param name="Files">Its files.</param>
public sealed record RepositoryContents(string Commit, IReadOnlyList<RepositoryFile> Files);

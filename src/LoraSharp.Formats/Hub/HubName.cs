using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Hub;

/// <summary>A repository on the hub at a revision: <c>org/name[@revision]</c>.</summary>
/// <param name="Repository"><c>org/name</c>, or just <c>name</c> for the few old models without an organisation.</param>
/// <param name="Revision">Branch, tag or commit.</param>
public sealed partial record HubName(string Repository, string Revision = HubName.DefaultRevision)
{
    /// <summary>The branch that is meant when none is named.</summary>
    public const string DefaultRevision = "main";

    /// <summary>The folder of this repository in the cache, e.g. <c>models--org--name</c>.</summary>
    public string FolderName => "models--" + Repository.Replace("/", "--", StringComparison.Ordinal);

    /// <summary>Reads a name; false when it cannot be one (then it is perhaps a path).</summary>
    public static bool TryParse(string text, out HubName? name)
    {
        ArgumentNullException.ThrowIfNull(text);
        int at = text.IndexOf('@', StringComparison.Ordinal);
        string repository = at < 0 ? text : text[..at];
        string revision = at < 0 ? DefaultRevision : text[(at + 1)..];
        bool valid = RepositoryPattern().IsMatch(repository) && !repository.Contains("--", StringComparison.Ordinal) && !repository.Contains("..", StringComparison.Ordinal)
            && repository.Length <= 96 && !repository.EndsWith(".git", StringComparison.Ordinal) && IsRevision(revision);
        name = valid ? new HubName(repository, revision) : null;
        return valid;
    }

    /// <summary>Reads a name.</summary>
    /// <exception cref="HubException">It cannot be one.</exception>
    public static HubName Parse(string text) => TryParse(text, out HubName? name)
        ? name!
        : throw new HubException(HubFault.BadRequest, $"'{text}' is no hub name. Expected org/name or org/name@revision: letters, digits, '-', '_' and '.', without '--' or '..', at most 96 characters.");

    /// <summary>As the user types it.</summary>
    public override string ToString() => Revision == DefaultRevision ? Repository : $"{Repository}@{Revision}";

    // A revision becomes a path below refs/, so it may not leave it.
    private static bool IsRevision(string revision) => RevisionPattern().IsMatch(revision) && !revision.Split('/').Any(part => part is "" or "." or "..");

    [GeneratedRegex(@"\A(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\z")]
    private static partial Regex RepositoryPattern();

    [GeneratedRegex(@"\A[A-Za-z0-9_./+-]{1,200}\z")]
    private static partial Regex RevisionPattern();
}

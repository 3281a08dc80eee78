namespace LoraSharp.Formats.Hub;

/// <summary>How far one file is.</summary>
/// <param name="File">Its path in the repository.</param>
/// <param name="Done">Bytes that are there, those of an earlier try included.</param>
/// <param name="Total">Bytes of the whole file.</param>
/// <param name="State">What is going on.</param>
/// <param name="Note">Why it is tried again; null otherwise.</param>
public sealed record TransferProgress(string File, long Done, long Total, TransferState State, string? Note = null);

/// <summary>What is going on with a file.</summary>
public enum TransferState
{
    /// <summary>It is wanted, and waits for its turn or for another process that gets it.</summary>
    Waiting,

    /// <summary>Bytes are moving.</summary>
    Moving,

    /// <summary>Something went wrong and it is tried again.</summary>
    Retrying,

    /// <summary>It is whole and checked.</summary>
    Done,

    /// <summary>It was there already.</summary>
    Present,
}

/// <summary>What a pull gave.</summary>
/// <param name="Name">The repository and revision.</param>
/// <param name="Commit">The commit that the revision was.</param>
/// <param name="Folder">The snapshot folder.</param>
/// <param name="Files">Its files, as paths in the repository.</param>
/// <param name="BytesDownloaded">Bytes that came over the network.</param>
public sealed record PullResult(HubName Name, string Commit, string Folder, IReadOnlyList<string> Files, long BytesDownloaded);

/// <summary>What a push gave.</summary>
/// <param name="Repository">The repository.</param>
/// <param name="Commit">The new commit.</param>
/// <param name="Address">Where it can be looked at.</param>
/// <param name="Files">Files in it.</param>
public sealed record PushResult(string Repository, string Commit, string Address, IReadOnlyList<string> Files);

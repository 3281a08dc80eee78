namespace LoraSharp.Formats.Hub;

/// <summary>Why the hub did not do what was asked.</summary>
public enum HubFault
{
    /// <summary>No connection, a time-out, or an answer that is no answer.</summary>
    Unreachable,

    /// <summary>There is no such repository, or it is private and the token does not open it.</summary>
    RepositoryNotFound,

    /// <summary>The repository has no such branch, tag or commit.</summary>
    RevisionNotFound,

    /// <summary>Its owner wants conditions accepted before it is downloaded.</summary>
    Gated,

    /// <summary>A token is missing, or it may not do this.</summary>
    Unauthorized,

    /// <summary>The bytes are not those that the hub announced, or are gone from the cache.</summary>
    Corrupt,

    /// <summary>The network is switched off (HF_HUB_OFFLINE) and the cache does not have it.</summary>
    Offline,

    /// <summary>The server says something that no server should: names outside the repository, sizes that contradict.</summary>
    Malformed,

    /// <summary>The request itself is wrong: a name, a pattern that matches nothing, a folder that is not there.</summary>
    BadRequest,

    /// <summary>There is no room on the disk.</summary>
    DiskFull,
}

/// <summary>A download from or an upload to the hub that failed, with what to do about it.</summary>
/// <param name="fault">Why.</param>
/// <param name="message">One plain message.</param>
/// <param name="inner">The error underneath, if there is one.</param>
public sealed class HubException(HubFault fault, string message, Exception? inner = null) : LoraSharpException(message, inner)
{
    /// <summary>Why.</summary>
    public HubFault Fault => fault;
}

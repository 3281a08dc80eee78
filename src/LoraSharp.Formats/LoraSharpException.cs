namespace LoraSharp.Formats;

/// <summary>
/// Something on disk or in a request is not what it should be. The message says what is wrong, where, what was
/// expected, what was found and what to do; it is meant to be shown to a user as it is.
/// </summary>
public class LoraSharpException : Exception
{
    /// <summary>Creates the error.</summary>
    /// <param name="message">One plain message: what, where, expected, found, what to do.</param>
    /// <param name="inner">The error underneath, if there is one.</param>
    public LoraSharpException(string message, Exception? inner = null)
        : base(message, inner)
    {
    }
}

/// <summary>A file is malformed, truncated or hostile.</summary>
public sealed class MalformedFileException : LoraSharpException
{
    /// <summary>Creates the error.</summary>
    /// <param name="path">The file that is at fault; it is put in front of the message.</param>
    /// <param name="message">What is wrong, expected and found.</param>
    /// <param name="inner">The error underneath, if there is one.</param>
    public MalformedFileException(string path, string message, Exception? inner = null)
        : base($"{path}: {message}", inner) => Path = path;

    /// <summary>The file at fault.</summary>
    public string Path { get; }
}

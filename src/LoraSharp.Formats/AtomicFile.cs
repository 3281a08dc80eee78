namespace LoraSharp.Formats;

/// <summary>
/// Writes aside, flushes to disk, then renames: under its final name a file is either the old one or the whole new one.
/// What a link names is replaced, not the link; a pipe or device (<c>/dev/stdout</c>) is written into.
/// </summary>
public static class AtomicFile
{
    /// <summary>Writes a file through <paramref name="write"/>; an exception leaves the old file (or none) in place.</summary>
    /// <exception cref="LoraSharpException">It is a folder, the disk is full, or nothing may be written there.</exception>
    public static void Write(string path, Action<Stream> write)
    {
        ArgumentNullException.ThrowIfNull(write);
        string full = Path.GetFullPath(path);
        if (Directory.Exists(full))
        {
            throw new LoraSharpException($"{full}: is a folder. Expected the name of a file to write.");
        }

        try
        {
            using FileStream? device = OpenDevice(full);
            if (device is null)
            {
                Replace(new FileInfo(full) is { LinkTarget: not null } link ? link.ResolveLinkTarget(returnFinalTarget: true)!.FullName : full, write);
            }
            else
            {
                write(device);
                device.Flush();
            }
        }
        catch (Exception error) when (IsRefusal(error))
        {
            throw new LoraSharpException($"{full}: cannot be written: {Reason(error)}", error);
        }
    }

    /// <summary>Writes UTF-8 text without a byte-order mark.</summary>
    public static void WriteText(string path, string text) => Write(path, stream =>
    {
        byte[] bytes = new System.Text.UTF8Encoding(false).GetBytes(text);
        stream.Write(bytes);
    });

    /// <summary>Whether the system, not the program, is why something could not be written.</summary>
    internal static bool IsRefusal(Exception? error) => error is IOException or UnauthorizedAccessException;

    /// <summary>Why; without the paths of the runtime's message, which are those of files written aside.</summary>
    internal static string Cause(Exception error) => error is UnauthorizedAccessException ? "permission denied" : error.Message.Split(" : '")[0].TrimEnd('.');

    /// <summary>Why, and what to do.</summary>
    internal static string Reason(Exception error) =>
        $"{Cause(error)}. {(error is UnauthorizedAccessException ? "Choose another output, or have the folder opened for writing." : "Free some space or choose another output.")}";

    private static void Replace(string full, Action<Stream> write)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        string aside = $"{full}.{Environment.ProcessId}.{Guid.NewGuid():N}.tmp";
        try
        {
            using (var stream = new FileStream(aside, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 20))
            {
                write(stream);
                stream.Flush(flushToDisk: true);
            }

            File.Move(aside, full, overwrite: true);
        }
        catch
        {
            File.Delete(aside);
            throw;
        }
    }

    // Renaming a file over a device would put a file in its place: for root, /dev/null would be gone. Not all devices are
    // known by what their handle can do (/dev/null seeks), so those of /dev are known by their name.
    private static FileStream? OpenDevice(string full)
    {
        if (OperatingSystem.IsWindows() || !File.Exists(full))
        {
            return null;
        }

        FileStream stream;
        try
        {
            stream = new FileStream(full, FileMode.Open, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete);
        }
        catch (Exception error) when (error is UnauthorizedAccessException or FileNotFoundException or DirectoryNotFoundException)
        {
            // A file that is write-protected, or a link to nothing yet: both can be replaced.
            return null;
        }

        if (!stream.CanSeek || IsInDeviceFolder(full))
        {
            return stream;
        }

        stream.Dispose();
        return null;
    }

    private static bool IsInDeviceFolder(string path) =>
        path.StartsWith("/dev/", StringComparison.Ordinal) && !path.StartsWith("/dev/shm/", StringComparison.Ordinal);
}

namespace LoraSharp.Formats;

/// <summary>
/// Writes aside, flushes to disk, then renames: under its final name a file is either the old one or the whole new one.
/// </summary>
public static class AtomicFile
{
    /// <summary>Writes a file through <paramref name="write"/>; an exception leaves the old file (or none) in place.</summary>
    public static void Write(string path, Action<Stream> write)
    {
        ArgumentNullException.ThrowIfNull(write);
        string full = Path.GetFullPath(path);
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
        catch (IOException error)
        {
            File.Delete(aside);
            throw new LoraSharpException($"{full}: cannot be written ({error.Message}). Free some space or choose another output.", error);
        }
        catch
        {
            File.Delete(aside);
            throw;
        }
    }

    /// <summary>Writes UTF-8 text without a byte-order mark.</summary>
    public static void WriteText(string path, string text) => Write(path, stream =>
    {
        byte[] bytes = new System.Text.UTF8Encoding(false).GetBytes(text);
        stream.Write(bytes);
    });
}

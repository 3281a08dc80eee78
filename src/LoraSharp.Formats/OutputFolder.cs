namespace LoraSharp.Formats;

/// <summary>A folder that appears under its name only when everything in it is written.</summary>
internal static class OutputFolder
{
    /// <summary>Fails when the folder holds anything.</summary>
    public static void RequireFree(string folder)
    {
        if (File.Exists(folder) || (Directory.Exists(folder) && Directory.EnumerateFileSystemEntries(folder).Any()))
        {
            throw new LoraSharpException($"{folder}: already exists and is not empty. Choose another --output, or remove it first.");
        }
    }

    /// <summary>Writes everything under another name, then renames.</summary>
    /// <param name="folder">Its name when it is whole; must not exist, or be empty.</param>
    /// <param name="write">Given the folder to fill.</param>
    /// <exception cref="LoraSharpException">It holds something, or the disk does not take it.</exception>
    public static void Write(string folder, Action<string> write)
    {
        RequireFree(folder);
        string full = Path.GetFullPath(folder);
        string aside = $"{Path.TrimEndingDirectorySeparator(full)}.{Environment.ProcessId}.tmp";
        try
        {
            Directory.CreateDirectory(aside);
            write(aside);
            if (Directory.Exists(full))
            {
                Directory.Delete(full);
            }

            Directory.Move(aside, full);
        }
        catch (Exception error) when (AtomicFile.IsRefusal(error))
        {
            throw new LoraSharpException($"{folder}: cannot be written: {AtomicFile.Reason(error)}", error);
        }
        catch (LoraSharpException error) when (AtomicFile.IsRefusal(error.InnerException))
        {
            // The user knows the name asked for, not the one written aside.
            throw new LoraSharpException(error.Message.Replace(aside, full, StringComparison.Ordinal), error.InnerException);
        }
        finally
        {
            if (Directory.Exists(aside))
            {
                Directory.Delete(aside, true);
            }
        }
    }
}

using System.Diagnostics;

namespace LoraSharp.Formats.Tests;

/// <summary>Where a file is written to: full disks, folders that may not be written to, and names that are no plain files.</summary>
public sealed class AtomicFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-atomic-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_full_disk_leaves_the_old_file_and_nothing_else()
    {
        string path = Path.Combine(_folder, "model.bin");
        File.WriteAllText(path, "old");

        var error = Assert.Throws<LoraSharpException>(() => AtomicFile.Write(path, stream =>
        {
            stream.WriteByte(1);
            throw new IOException($"No space left on device : '{path}.1.2.tmp'");
        }));

        Assert.Equal("old", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFileSystemEntries(_folder));
        Assert.StartsWith($"{path}: cannot be written: No space left on device.", error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain(".tmp", error.Message);
    }

    [Fact]
    public void A_place_that_may_not_be_written_to_is_told_with_what_to_do()
    {
        string path = Path.Combine(_folder, "model.bin");

        var error = Assert.Throws<LoraSharpException>(() => AtomicFile.Write(path, _ => throw new UnauthorizedAccessException($"Access to the path '{path}.1.2.tmp' is denied.")));

        Assert.StartsWith($"{path}: cannot be written: permission denied.", error.Message, StringComparison.Ordinal);
        Assert.Contains("another", error.Message);
        Assert.DoesNotContain(".tmp", error.Message);
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public void A_folder_s_error_names_the_folder_that_was_asked_for()
    {
        string output = Path.Combine(_folder, "out");

        foreach ((Exception fault, string cause) in new (Exception, string)[] { (new IOException("No space left on device : 'x'"), "No space left"), (new UnauthorizedAccessException("Access to the path 'x.tmp' is denied."), "permission denied") })
        {
            var error = Assert.Throws<LoraSharpException>(() => OutputFolder.Write(output, aside => AtomicFile.Write(Path.Combine(aside, "model.bin"), _ => throw fault)));

            Assert.StartsWith($"{Path.Combine(output, "model.bin")}: cannot be written: {cause}", error.Message, StringComparison.Ordinal);
            Assert.DoesNotContain(".tmp", error.Message);
            Assert.Empty(Directory.GetFileSystemEntries(_folder));
        }
    }

    [Fact]
    public void A_fault_that_is_none_of_the_disk_s_passes_a_folder_unchanged()
    {
        var fault = new LoraSharpException("a matrix is missing");

        Assert.Same(fault, Assert.Throws<LoraSharpException>(() => OutputFolder.Write(Path.Combine(_folder, "out"), _ => throw fault)));
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public void A_new_file_is_written_in_folders_made_for_it()
    {
        string path = Path.Combine(_folder, "a", "b", "new.txt");

        AtomicFile.WriteText(path, "new");

        Assert.Equal("new", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFileSystemEntries(Path.GetDirectoryName(path)!));
    }

    [Fact]
    public void A_folder_is_no_file_to_write()
    {
        var error = Assert.Throws<LoraSharpException>(() => AtomicFile.WriteText(_folder, "x"));

        Assert.Contains("is a folder", error.Message);
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public void What_a_link_names_is_written_and_the_link_stays()
    {
        string real = Path.Combine(_folder, "real.txt"), link = Path.Combine(_folder, "link.txt"), loose = Path.Combine(_folder, "loose.txt");
        File.WriteAllText(real, "old");
        File.CreateSymbolicLink(link, "real.txt");
        File.CreateSymbolicLink(loose, "later.txt");

        AtomicFile.WriteText(link, "new");
        AtomicFile.WriteText(loose, "later");

        Assert.Equal("new", File.ReadAllText(real));
        Assert.Equal("real.txt", new FileInfo(link).LinkTarget);
        Assert.Equal("later", File.ReadAllText(Path.Combine(_folder, "later.txt")));
        Assert.Equal("later.txt", new FileInfo(loose).LinkTarget);
    }

    [Fact]
    public async Task A_pipe_is_written_into_and_stays_a_pipe()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "named pipes of the file system are Unix's");
        string pipe = Path.Combine(_folder, "pipe");
        using (Process make = Process.Start("mkfifo", [pipe]))
        {
            await make.WaitForExitAsync(TestContext.Current.CancellationToken);
        }

        // A process of its own, so that a writer who never opens the pipe leaves nothing hanging here.
        using Process reader = Process.Start(new ProcessStartInfo("cat", [pipe]) { RedirectStandardOutput = true })!;
        try
        {
            Task<string> read = reader.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
            AtomicFile.WriteText(pipe, "through");

            Assert.Equal("through", await read.WaitAsync(TimeSpan.FromSeconds(10), TestContext.Current.CancellationToken));
            Assert.Equal([pipe], Directory.GetFileSystemEntries(_folder));
        }
        finally
        {
            reader.Kill();
        }
    }
}

namespace LoraSharp.Testing;

/// <summary>Where reference data lies: small files in the repository, larger ones in a folder named by the environment.</summary>
internal static class Fixtures
{
    /// <summary>Folder with more references than the repository carries (real tokenizers, a real model, data sets); optional.</summary>
    public const string ReferenceVariable = "LORASHARP_REFERENCE";

    /// <summary>A file or folder below <c>tests/Fixtures</c>.</summary>
    public static string Path(string relative)
    {
        string path = System.IO.Path.Combine(Root(), "tests", "Fixtures", relative.Replace('/', System.IO.Path.DirectorySeparatorChar));
        Assert.True(File.Exists(path) || Directory.Exists(path), $"{path} is missing from the repository");
        return path;
    }

    /// <summary>A file or folder of the optional reference folder; the test is skipped where there is none.</summary>
    public static string ReferenceOrSkip(string relative)
    {
        string? path = Reference(relative);
        Assert.SkipWhen(path is null, $"needs {relative} of the reference folder that {ReferenceVariable} names");
        return path!;
    }

    /// <summary>A file or folder of the optional reference folder, or null.</summary>
    public static string? Reference(string relative)
    {
        string? root = Environment.GetEnvironmentVariable(ReferenceVariable);
        string? path = string.IsNullOrEmpty(root) ? null : System.IO.Path.Combine(root, relative);
        return path is not null && (File.Exists(path) || Directory.Exists(path)) ? path : null;
    }

    /// <summary>The repository's root.</summary>
    public static string Root()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(System.IO.Path.Combine(folder.FullName, "LoraSharp.slnx")))
            {
                return folder.FullName;
            }
        }

        throw new DirectoryNotFoundException("LoraSharp.slnx was not found above the test assembly");
    }
}

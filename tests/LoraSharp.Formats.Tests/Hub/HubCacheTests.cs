using LoraSharp.Formats.Hub;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Tests.Hub;

/// <summary>Caches as other programs, and accidents, leave them.</summary>
public sealed class HubCacheTests : IDisposable
{
    private const string First = "aaaaaaa1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    private const string Second = "aaaaaaa2bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-cache-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_short_commit_is_the_one_that_begins_so()
    {
        string first = Snapshot(First);
        string second = Snapshot(Second);
        var cache = new HubCache(_folder);

        Assert.Equal(first, cache.Locate("org/m@aaaaaaa1"));
        Assert.Equal(second, cache.Locate("org/m@aaaaaaa2bb"));
        Assert.Equal(second, cache.Locate("org/m@" + Second));
        // Too short to be meant as a commit.
        Assert.Null(cache.ResolveSnapshot("org/m@aaaaaa"));
        var error = Assert.Throws<HubException>(() => cache.ResolveSnapshot("org/m@aaaaaaa"));
        Assert.Contains("several commits", error.Message);
        Assert.Contains("aaaaaaa1aaaa", error.Message);
        Assert.Contains("aaaaaaa2bbbb", error.Message);
    }

    [Fact]
    public void A_branch_that_looks_like_a_commit_is_the_branch()
    {
        Snapshot(First);
        string second = Snapshot(Second);
        Reference("aaaaaaa1", Second);

        Assert.Equal(second, new HubCache(_folder).Locate("org/m@aaaaaaa1"));
    }

    [Fact]
    public void Without_a_reference_the_error_names_the_commits_there_are()
    {
        Snapshot(First);

        var error = Assert.Throws<HubException>(() => new HubCache(_folder).Locate("org/m"));

        Assert.Contains("org/m@aaaaaaa1", error.Message);
        Assert.DoesNotContain("There is: org/m.", error.Message);
    }

    [Fact]
    public void A_reference_to_files_that_are_gone_says_so()
    {
        Snapshot(First);
        Reference("main", Second);
        Reference("v1", First);

        var error = Assert.Throws<HubException>(() => new HubCache(_folder).Locate("org/m"));

        Assert.Contains("main is commit aaaaaaa2bbbb", error.Message);
        Assert.Contains("v1", error.Message);
        Assert.Equal(Path.Combine(_folder, "models--org--m", "snapshots", First), new HubCache(_folder).Locate("org/m@v1"));
    }

    [Fact]
    public void A_reference_that_is_no_commit_says_so()
    {
        Snapshot(First);
        Reference("main", "garbage\n");

        Assert.Contains("refs/main", Assert.Throws<HubException>(() => new HubCache(_folder).Locate("org/m")).Message);
    }

    [Fact]
    public void Links_to_blobs_that_are_gone_are_told_by_name()
    {
        string snapshot = Snapshot(First);
        Reference("main", First);
        File.WriteAllText(Path.Combine(snapshot, "config.json"), "{}");
        File.CreateSymbolicLink(Path.Combine(snapshot, "tokenizer.json"), "../../blobs/gone");

        var error = Assert.Throws<HubException>(() => new HubCache(_folder).Locate("org/m"));

        Assert.Contains("tokenizer.json", error.Message);
        Assert.DoesNotContain("config.json", error.Message);
        Assert.Contains("lora pull org/m", error.Message);
    }

    [Fact]
    public void A_folder_that_is_not_there_is_not_one_without_a_tokenizer() =>
        Assert.Contains("no such folder", Assert.Throws<MalformedFileException>(() => TokenizerLoader.FromFolder(Path.Combine(_folder, "nowhere"))).Message);

    private string Snapshot(string commit) => Directory.CreateDirectory(Path.Combine(_folder, "models--org--m", "snapshots", commit)).FullName;

    private void Reference(string name, string text)
    {
        string folder = Path.Combine(_folder, "models--org--m", "refs");
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, name), text);
    }
}

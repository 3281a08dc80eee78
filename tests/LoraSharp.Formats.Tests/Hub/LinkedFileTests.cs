using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Hub;
using LoraSharp.Formats.HuggingFace;

namespace LoraSharp.Formats.Tests.Hub;

/// <summary>A snapshot in the cache is made of links, whose own length is not that of the file.</summary>
public sealed class LinkedFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-links-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_model_of_links_opens_by_its_hub_name()
    {
        string snapshot = Snapshot("models--org--llama");
        foreach (string file in Directory.GetFiles(Fixtures.Path("models/llama")))
        {
            File.CreateSymbolicLink(Path.Combine(snapshot, Path.GetFileName(file)), file);
        }

        using ModelSource source = ModelSource.OpenFolder(new HubCache(_folder).Locate("org/llama"), "org/llama");
        using ModelSource plain = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        Assert.Equal("org/llama", source.Name);
        Assert.Equal(plain.Tensors.Tensors.Keys.Order(), source.Tensors.Tensors.Keys.Order());
    }

    [Fact]
    public void A_snapshot_of_one_gguf_file_is_that_file()
    {
        string gguf = Directory.GetFiles(Fixtures.Path("gguf"), "*.gguf").Order(StringComparer.Ordinal).First(path => !path.Contains("adapter", StringComparison.Ordinal) && !path.Contains("-of-", StringComparison.Ordinal));
        string link = Path.Combine(Snapshot("models--org--gguf"), "model.gguf");
        File.CreateSymbolicLink(link, gguf);
        Assert.Equal(link, new HubCache(_folder).Locate("org/gguf"));
        using GgufFile linked = GgufFile.Open(link);
        using GgufFile plain = GgufFile.Open(gguf);
        Assert.Equal(plain.Tensors.Count, linked.Tensors.Count);
    }

    private string Snapshot(string repository)
    {
        string snapshot = Path.Combine(_folder, repository, "snapshots", FakeHub.Commit);
        Directory.CreateDirectory(snapshot);
        Directory.CreateDirectory(Path.Combine(_folder, repository, "refs"));
        File.WriteAllText(Path.Combine(_folder, repository, "refs", "main"), FakeHub.Commit);
        return snapshot;
    }
}

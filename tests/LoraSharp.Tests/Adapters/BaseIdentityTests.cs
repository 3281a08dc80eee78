using LoraSharp.Adapters;
using LoraSharp.Adapters.Combining;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Tests.Adapters;

/// <summary>An adapter knows the base that it was made on, and no other takes it without being told to.</summary>
public sealed class BaseIdentityTests : IDisposable
{
    private static readonly string Other = new('0', 32);

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("weights", "other weights")]
    [InlineData("shapes", "other names or shapes")]
    public void Another_base_is_refused_unless_it_is_accepted(string what, string reason)
    {
        using AdapterFolder saved = Saved(b => what == "weights" ? b with { Data = Other } : b with { Shapes = Other });
        using var model = new AdaptedModel("models/llama");
        string message = Assert.Throws<LoraSharpException>(() => model.Adapters.Load(saved)).Message;
        Assert.Contains(reason, message, StringComparison.Ordinal);
        Assert.Contains("--any-base", message, StringComparison.Ordinal);
        Assert.Empty(model.Adapters.Adapters);
        using var willing = new AdaptedModel("models/llama", acceptOtherBases: true);
        Assert.Contains(willing.Adapters.Load(saved).Warnings, w => w.Contains(reason, StringComparison.Ordinal));
    }

    [Fact]
    public void Another_storage_of_the_base_can_only_be_told()
    {
        using AdapterFolder saved = Saved(b => b with { Data = Other, Types = Other });
        using var model = new AdaptedModel("models/llama");
        Assert.Contains(model.Adapters.Load(saved).Warnings, w => w.Contains("another type", StringComparison.Ordinal));
    }

    [Fact]
    public void Its_own_base_and_adapters_that_record_none_are_taken_in_silence()
    {
        using var model = new AdaptedModel("models/llama");
        using AdapterFolder own = Saved(b => b);
        Assert.Empty(model.Adapters.Load(own, "own").Warnings);
        using AdapterFolder peft = AdapterFolder.Open(Fixtures.Path("adapters/plain_qv"));
        Assert.Null(BaseFingerprint.Read(peft.Metadata));
        Assert.Empty(model.Adapters.Load(peft, "peft").Warnings);
    }

    [Fact]
    public void Merging_asks_the_same_and_taking_out_does_not()
    {
        using AdapterFolder saved = Saved(b => b with { Data = Other });
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        string output = Path.Combine(_folder.Path, "merged");
        Assert.Contains("other weights", Assert.Throws<LoraSharpException>(() => AdapterMerger.Merge(source, [new(saved)], output, new MergeOptions())).Message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(output));
        MergeReport report = AdapterMerger.Merge(source, [new(saved)], output, new MergeOptions { AcceptOtherBases = true });
        Assert.Contains(report.Notes, n => n.Contains("other weights", StringComparison.Ordinal));
        using ModelSource merged = ModelSource.OpenFolder(output);
        Assert.Empty(AdapterMerger.Merge(merged, [new(saved)], Path.Combine(_folder.Path, "back"), new MergeOptions { Unmerge = true }).Notes);
    }

    [Fact]
    public void Adapters_of_different_bases_are_not_combined()
    {
        using AdapterFolder one = Saved(b => b, "one");
        using AdapterFolder two = Saved(b => b with { Data = Other }, "two");
        string message = Assert.Throws<LoraSharpException>(() => AdapterCombiner.Combine([new(one, 1), new(two, 1)], new CombineOptions { Method = CombineMethod.Cat }, "never")).Message;
        Assert.Contains("different bases", message, StringComparison.Ordinal);
        Assert.Contains("weights 00000000", message, StringComparison.Ordinal);
        IReadOnlyList<string> notes = AdapterCombiner.Combine([new(one, 1), new(two, 1)], new CombineOptions { Method = CombineMethod.Cat, AcceptOtherBases = true }, Path.Combine(_folder.Path, "both"));
        Assert.Contains(notes, n => n.Contains("different bases", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("org/llama", "/data/models/llama/", true)]
    [InlineData("org/llama@main", "llama", true)]
    [InlineData("org/llama", "org/qwen", false)]
    public void Where_nothing_is_recorded_the_ends_of_the_names_decide(string first, string second, bool fit)
    {
        using AdapterFolder one = Saved(_ => null, "one", first);
        using AdapterFolder two = Saved(_ => null, "two", second);
        string output = Path.Combine(_folder.Path, "both");
        if (fit)
        {
            Assert.Empty(AdapterCombiner.Combine([new(one, 1), new(two, 1)], new CombineOptions { Method = CombineMethod.Cat }, output));
            return;
        }

        string message = Assert.Throws<LoraSharpException>(() => AdapterCombiner.Combine([new(one, 1), new(two, 1)], new CombineOptions { Method = CombineMethod.Cat }, output)).Message;
        Assert.Contains("org/qwen", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Converted_and_combined_adapters_still_know_their_base()
    {
        using AdapterFolder saved = Saved(b => b);
        BaseFingerprint? known = BaseFingerprint.Read(saved.Metadata);
        Assert.NotNull(known);
        string converted = Path.Combine(_folder.Path, "converted"), combined = Path.Combine(_folder.Path, "combined");
        AdapterConverter.Convert(saved, converted, AdapterForm.RsLora);
        AdapterCombiner.Combine([new(saved, 0.5)], new CombineOptions(), combined);
        foreach (string folder in (string[])[converted, combined])
        {
            using AdapterFolder opened = AdapterFolder.Open(folder);
            Assert.Equal(known, BaseFingerprint.Read(opened.Metadata));
        }
    }

    private AdapterFolder Saved(Func<BaseFingerprint, BaseFingerprint?> record, string name = "a", string? baseName = null)
    {
        using var model = new AdaptedModel("models/llama");
        LoraAdapter adapter = model.Adapters.Create(new LoraOptions { Rank = 2, Init = "false" }, 1, baseModel: baseName);
        string path = Path.Combine(_folder.Path, name);
        AdapterWriter.Write(adapter, path, record(model.Adapters.Base!));
        return AdapterFolder.Open(path);
    }
}

using CsCheck;
using LoraSharp.Adapters;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

public sealed class MergeTests
{
    public static TheoryData<string> Folders => AdapterFileTests.Folders;

    private static string BaseOf(string adapter) => Fixtures.Path(File.ReadAllText(Path.Combine(Fixtures.Path("adapters/" + adapter), "base_model.txt")).Trim());

    private static MergeReport Merge(string model, string adapter, string output, MergeOptions? options = null)
    {
        using ModelSource source = ModelSource.OpenFolder(model);
        using AdapterFolder folder = AdapterFolder.Open(adapter);
        return AdapterMerger.Merge(source, [new(folder)], output, options ?? new MergeOptions());
    }

    private static Tensor Read(string folder, string name)
    {
        using SafetensorsCheckpoint file = SafetensorsCheckpoint.Open(folder);
        using Tensor mapped = TensorBytes.ToTensor(file.Read(name), ScalarType.Float32, CPU);
        return mapped.clone();
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void Merged_weights_are_pefts(string name)
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "merged");
        MergeReport report = Merge(BaseOf(name), Fixtures.Path("adapters/" + name), output);
        Assert.True(report.Changed > 0);
        using var scope = NewDisposeScope();
        using SafetensorsFile golden = SafetensorsFile.Open(Path.Combine(Fixtures.Path("adapters/" + name), "golden.safetensors"));
        int compared = 0;
        foreach (string key in golden.Tensors.Keys.Where(k => k.StartsWith("merged.", StringComparison.Ordinal)))
        {
            Tensor expected = FlatModel.Read($"adapters/{name}/golden.safetensors", key);
            Tensor found = Read(output, key["merged.".Length..]);
            float difference = (found - expected).abs().max().item<float>();
            Assert.True(difference < 2e-5, $"{key}: {difference}");
            compared++;
        }

        Assert.True(compared >= 1);
    }

    [Theory]
    [InlineData("plain_qv")]
    [InlineData("gpt2_conv1d")]
    [InlineData("lora_bias")]
    [InlineData("embed_lora")]
    public void Taking_out_what_was_put_in_gives_the_base(string name)
    {
        using var folder = new TemporaryFolder();
        string merged = Path.Combine(folder.Path, "merged");
        string back = Path.Combine(folder.Path, "back");
        Merge(BaseOf(name), Fixtures.Path("adapters/" + name), merged);
        Merge(merged, Fixtures.Path("adapters/" + name), back, new MergeOptions { Unmerge = true });
        using var scope = NewDisposeScope();
        using SafetensorsCheckpoint file = SafetensorsCheckpoint.Open(BaseOf(name));
        foreach (string tensor in file.Tensors.Keys)
        {
            Assert.True((Read(BaseOf(name), tensor) - Read(back, tensor)).abs().max().item<float>() < 2e-6, tensor);
        }
    }

    [Theory]
    [InlineData("dora", "new length")]
    [InlineData("modules_to_save", "not kept")]
    [InlineData("pissa", "residual")]
    public void What_cannot_be_taken_out_is_refused_with_the_reason(string name, string reason)
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "x");
        Assert.Contains(reason, Assert.Throws<LoraSharpException>(() => Merge(BaseOf(name), Fixtures.Path("adapters/" + name), output, new MergeOptions { Unmerge = true })).Message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(output));
    }

    [Fact]
    public void Rounding_to_bfloat16_is_measured()
    {
        using var folder = new TemporaryFolder();
        MergeReport report = Merge(BaseOf("plain_qv"), Fixtures.Path("adapters/plain_qv"), Path.Combine(folder.Path, "m"), new MergeOptions { StoredType = ElementType.BF16 });
        Assert.InRange(report.RoundingLoss, 1e-4, 1e-2);
        Assert.Equal([ElementType.BF16], report.StoredTypes);
        Assert.Equal("bfloat16", (string?)JsonFile.ReadObject(Path.Combine(folder.Path, "m", "config.json"))["torch_dtype"] ?? (string?)JsonFile.ReadObject(Path.Combine(folder.Path, "m", "config.json"))["dtype"]);
    }

    [Fact]
    public void An_adapter_of_another_model_writes_nothing()
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "x");
        string message = Assert.Throws<LoraSharpException>(() => Merge(BaseOf("plain_qv"), Fixtures.Path("adapters/gpt2_conv1d"), output)).Message;
        Assert.Contains("transformer.h.0.attn.c_attn", message, StringComparison.Ordinal);
        Assert.Empty(Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public void An_output_that_exists_is_left_alone()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllText(Path.Combine(folder.Path, "mine.txt"), "mine");
        Assert.Contains("not empty", Assert.Throws<LoraSharpException>(() => Merge(BaseOf("plain_qv"), Fixtures.Path("adapters/plain_qv"), folder.Path)).Message, StringComparison.Ordinal);
        Assert.Single(Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public void Merging_then_taking_out_is_the_identity_for_any_factors()
    {
        var cases = Gen.Select(Gen.Int[1, 40], Gen.Int[1, 40], Gen.Int[1, 8], Gen.Double[-4, 4], Gen.Int[0, 1 << 20]);
        cases.Sample(
            one =>
            {
                (int f, int k, int r, double scaling, int seed) = one;
                using var scope = NewDisposeScope();
                using var generator = new Generator((ulong)seed, CPU);
                using var module = new AdapterModule("m", false)
                {
                    A = randn(r, k, generator: generator).DetachFromDisposeScope(),
                    B = randn(f, r, generator: generator).DetachFromDisposeScope(),
                    Scaling = scaling,
                };
                Tensor weight = randn(f, k, generator: generator);
                Tensor merged = weight + module.Delta()!;
                float scale = Math.Max(1, merged.abs().max().item<float>());
                return (merged - module.Delta()! - weight).abs().max().item<float>() <= 4e-7f * scale;
            },
            iter: 60,
            threads: 1);
    }
}

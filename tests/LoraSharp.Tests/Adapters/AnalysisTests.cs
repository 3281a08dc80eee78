using CsCheck;
using LoraSharp.Adapters;
using LoraSharp.Adapters.Analysis;
using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Adapters;

public sealed class AnalysisTests
{
    [Theory]
    [InlineData("plain_qv", "models/llama")]
    [InlineData("embed_lora", "models/llama")]
    [InlineData("gpt2_conv1d", "models/gpt2")]
    public void Extracting_from_a_merged_model_gives_the_update_back(string name, string model)
    {
        using var folder = new TemporaryFolder();
        string merged = Path.Combine(folder.Path, "merged");
        string output = Path.Combine(folder.Path, "extracted");
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path(model));
        using AdapterFolder original = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
        AdapterMerger.Merge(source, [new(original)], merged, new MergeOptions());
        using ModelSource tuned = ModelSource.OpenFolder(merged);
        ExtractReport report = AdapterExtractor.Extract(source, tuned, output, new ExtractOptions { Rank = 8 });
        Assert.True(report.RelativeError < 1e-5, $"{report.RelativeError}");
        Assert.Empty(report.LeftOut);
        using AdapterFolder extracted = AdapterFolder.Open(output);
        using var scope = NewDisposeScope();
        Assert.Equal(AdapterReader.Modules(original), AdapterReader.Modules(extracted));
        foreach (string module in AdapterReader.Modules(original))
        {
            Tensor expected = AdapterReader.Read(original, module).Delta()!;
            Tensor difference = expected - AdapterReader.Read(extracted, module).Delta()!;
            Assert.True(difference.abs().max().item<float>() < 1e-5 * expected.abs().max().item<float>(), module);
        }
    }

    [Fact]
    public void Energy_chooses_the_rank_of_each_matrix()
    {
        using var folder = new TemporaryFolder();
        string merged = Path.Combine(folder.Path, "merged");
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using AdapterFolder original = AdapterFolder.Open(Fixtures.Path("adapters/plain_qv"));
        AdapterMerger.Merge(source, [new(original)], merged, new MergeOptions());
        using ModelSource tuned = ModelSource.OpenFolder(merged);
        ExtractReport report = AdapterExtractor.Extract(source, tuned, Path.Combine(folder.Path, "x"), new ExtractOptions { Rank = 64, Energy = 0.9 });
        Assert.All(report.Modules, m => Assert.InRange(m.Energy, 0.9, 1));
        Assert.All(report.Modules, m => Assert.InRange(m.Rank, 2, 8));
        using var model = new FlatModel("models/llama");
        using AdapterFolder extracted = AdapterFolder.Open(Path.Combine(folder.Path, "x"));
        Assert.Equal(report.Modules.Count, model.Adapters.Load(extracted).Modules.Count);
    }

    [Fact]
    public void The_spectrum_from_the_factors_is_that_of_the_formed_update()
    {
        Gen.Select(Gen.Int[2, 50], Gen.Int[2, 50], Gen.Int[1, 12], Gen.Int[0, 1 << 20]).Sample(
            one =>
            {
                (int f, int k, int r, int seed) = one;
                using var scope = NewDisposeScope();
                using var generator = new Generator((ulong)seed, CPU);
                using var module = new AdapterModule("m", false)
                {
                    A = randn(r, k, generator: generator).DetachFromDisposeScope(),
                    B = randn(f, r, generator: generator).DetachFromDisposeScope(),
                    Scaling = 0.7,
                };
                (_, Tensor expected, _) = linalg.svd(module.Delta()!, fullMatrices: false);
                using UpdateSpectrum spectrum = UpdateSpectrum.Of(module);
                long n = Math.Min(expected.shape[0], spectrum.Values.shape[0]);
                float scale = expected[0].item<float>();
                return (expected.narrow(0, 0, n) - spectrum.Values.narrow(0, 0, n)).abs().max().item<float>() < 1e-5f * scale;
            },
            iter: 40,
            threads: 1);
    }

    [Fact]
    public void An_adapter_is_entirely_similar_to_itself_and_its_grid_grows_to_one()
    {
        using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/plain_qv"));
        AdapterReport report = AdapterInspector.Inspect(folder, new InspectOptions { Spectrum = true, Against = folder });
        Assert.All(report.Modules, m =>
        {
            Assert.Equal(1, m.Similarity!.Input, 4);
            Assert.Equal(1, m.Similarity.Output, 4);
            Assert.Equal(1, m.Similarity.Cosine, 4);
            Assert.Equal(1, m.Similarity.InputGrid[0][0], 4);
            Assert.Equal(1, m.Spectrum!.EnergyByRank[^1], 6);
            Assert.InRange(m.Spectrum.EffectiveRank, 1, 8);
        });
    }

    [Fact]
    public void Counts_norms_and_compression_are_those_of_the_matrices()
    {
        using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/plain_qv"));
        using ModelSource model = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        AdapterReport report = AdapterInspector.Inspect(folder, new InspectOptions { Model = model, Spectrum = true });
        Assert.Equal(2 * ((8 * 96) + (8 * 72)), report.TrainableParameters);
        ModuleReport q = report.Modules.First(m => m.Module == "model.layers.0.self_attn.q_proj");
        Assert.Equal(48.0 * 48 / (8 * 96), q.Compression, 6);
        using var scope = NewDisposeScope();
        using AdapterModule module = AdapterReader.Read(folder, q.Module);
        Assert.Equal(linalg.norm(module.Delta()!).item<float>(), q.NormUpdate, 3);
        Assert.NotNull(q.Spectrum!.AmplificationFactor);
        Assert.InRange(q.Spectrum.InTopOfBase!.Value, 0, 1);
        Assert.True(report.TrainableShare is > 0 and < 0.2);
    }

    [Theory]
    [InlineData("plain_qv", AdapterForm.RsLora)]
    [InlineData("patterns", AdapterForm.RsLora)]
    [InlineData("rslora", AdapterForm.Plain)]
    [InlineData("pissa", AdapterForm.Plain)]
    public void Converting_keeps_the_update(string name, AdapterForm form)
    {
        using var folder = new TemporaryFolder();
        string output = Path.Combine(folder.Path, "out");
        using var model = new FlatModel("models/llama");
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using AdapterFolder original = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
        AdapterConverter.Convert(original, output, form, model: source);
        using AdapterFolder converted = AdapterFolder.Open(output);
        Assert.Equal(form == AdapterForm.RsLora, converted.Config.UseRsLora);
        LoraAdapter before = model.Adapters.Load(original, "before");
        LoraAdapter after = model.Adapters.Load(converted, "after");
        Assert.False(after.HasAnchors);
        using var scope = NewDisposeScope();
        foreach (AdapterModule module in before.Modules.Values)
        {
            Assert.True((module.Delta()! - after.Modules[module.Name].Delta()!).abs().max().item<float>() < 1e-5);
        }
    }

    [Fact]
    public void Dora_is_no_plain_lora()
    {
        using AdapterFolder dora = AdapterFolder.Open(Fixtures.Path("adapters/dora"));
        Assert.Contains("extract", Assert.Throws<LoraSharpException>(() => AdapterConverter.Convert(dora, "never", AdapterForm.Plain)).Message, StringComparison.Ordinal);
    }
}

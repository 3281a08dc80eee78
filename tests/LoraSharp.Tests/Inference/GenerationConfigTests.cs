using LoraSharp.Formats.HuggingFace;
using LoraSharp.Inference;
using LoraSharp.Tests.Adapters;

namespace LoraSharp.Tests.Inference;

public sealed class GenerationConfigTests
{
    [Fact]
    public void WhatIsNotAppliedIsTold()
    {
        GenerationConfig config = Read("""{"num_beams": 4, "no_repeat_ngram_size": 0, "suppress_tokens": [], "bad_words_ids": [[3, 4]], "typical_p": 1.0, "top_h": null, "repetition_penalty": 1.1}""");
        Assert.Equal(["num_beams 4", "bad_words_ids [[3,4]]"], config.NotApplied);
        Assert.Equal(1.1, config.Sampling.RepetitionPenalty);
    }

    [Fact]
    public void EndsAreAListAndComeBeforeTheModels()
    {
        Assert.Equal([7, 9], Read("""{"eos_token_id": [7, 9]}""").EosTokenIds);
        Assert.Equal([2], Read("{}").EosTokenIds);
        Assert.Empty(Read("{}").NotApplied);
    }

    [Fact]
    public void SamplingValuesCountOnlyWhereItSamples()
    {
        Assert.Equal(0, Read("""{"temperature": 0.6, "top_p": 0.9}""").Sampling.Temperature);
        SamplingOptions sampling = Read("""{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "min_p": 0.1}""").Sampling;
        Assert.Equal((0.6, 50, 0.9, 0.1), (sampling.Temperature, sampling.TopK, sampling.TopP, sampling.MinP));
    }

    private static GenerationConfig Read(string json)
    {
        using var folder = new TemporaryFolder();
        foreach (string file in Directory.EnumerateFiles(Fixtures.Path("models/llama")))
        {
            File.Copy(file, Path.Combine(folder.Path, Path.GetFileName(file)));
        }

        File.WriteAllText(Path.Combine(folder.Path, "generation_config.json"), json);
        using ModelSource source = ModelSource.OpenFolder(folder.Path);
        return GenerationConfig.Read(source);
    }
}

using LoraSharp.Inference;
using LoraSharp.Training.Rewards;

namespace LoraSharp;

/// <summary>Groups of completions for learning from rewards, by the engine's own batched generation.</summary>
internal static class GroupSampling
{
    /// <summary>Samples from a model with whatever adapter is selected: a prompt runs once, its completions side by side.</summary>
    public static SampleCompletions From(LoadedModel loaded)
    {
        var generator = new BatchGenerator(loaded.Model);
        // Rows end with the tokenizer's token, chats perhaps with another of the model's.
        int[] ends = [.. loaded.Generation.EosTokenIds.Concat(loaded.Tokenizer.EosTokenId is { } eos ? [eos] : []).Distinct()];
        return (prompts, options, seed) =>
        {
            IReadOnlyList<GeneratedText> texts = generator.Sample(prompts, options.GroupSize, new GenerationOptions
            {
                MaxTokens = options.MaxTokens,
                EosTokenIds = ends,
                Sampling = new SamplingOptions { Temperature = options.Temperature, Seed = seed },
            });
            return [.. texts.Select(t => t.TokenIds.ToArray()).Chunk(options.GroupSize)];
        };
    }
}

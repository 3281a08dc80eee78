using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Fused;
using LoraSharp.Training.Loss;
using LoraSharp.Training.Preferences;
using LoraSharp.Training.Rewards;

namespace LoraSharp;

/// <summary>What a recipe minimises: the likelihood of texts, a loss of preferences, or the want of rewards.</summary>
/// <param name="recipe">All settings.</param>
/// <param name="loaded">The model with what is trained selected on it.</param>
/// <param name="options">Of the trainer.</param>
/// <param name="batches">Tell whether micro-batches have one length.</param>
internal sealed class RecipeObjective(Recipe recipe, LoadedModel loaded, TrainerOptions options, BatchOptions batches)
{
    /// <summary>The objective for rows of a kind.</summary>
    /// <param name="data">The rows; null when micro-batches are the caller's.</param>
    /// <param name="reward">Judges completions in place of the recipe's reward.</param>
    /// <param name="cache">File that keeps the reference's log-probabilities.</param>
    /// <param name="notes">Told what a user should know.</param>
    /// <exception cref="LoraSharpException">Rows and objective do not go together.</exception>
    public ITrainingObjective Create(TrainingData? data, TextReward? reward, string cache, Action<string> notes)
    {
        PreferenceRecipe p = recipe.Preference;
        ExampleKind kind = data?.Kind ?? ExampleKind.Plain;
        if (reward is not null || recipe.Grpo.Reward != "none")
        {
            if (recipe.Data.TrainOn == "all" || data?.Report.Sources.Any(s => s.Format == DatasetFormat.Text.Name()) == true)
            {
                throw new LoraSharpException("grpo samples the answers to prompts. Expected rows with a prompt and a completion (or conversations) and data.train_on: assistant or completions; found running text, or train_on: all.");
            }

            return kind == ExampleKind.Plain && p.Loss == "none"
                ? Rewarded(reward)
                : throw new LoraSharpException(p.Loss != "none"
                    ? $"grpo.reward and preference.loss ({p.Loss}) are both set. Expected one of them: rewards are learned from sampled completions, preferences from given ones."
                    : $"grpo.reward is set, but the rows are of the kind {kind}. Expected rows with a prompt and the right completion.");
        }

        if (kind == ExampleKind.Plain)
        {
            return p.Loss == "none"
                ? LanguageModeling(recipe.Method == "full" ? null : loaded.Adapters[AdapterSet.DefaultName], notes)
                : throw new LoraSharpException($"preference.loss is {p.Loss}, but the rows are no preferences. Expected rows with chosen and rejected (or label, for kto), or preference.loss: none.");
        }

        string loss = p.Loss != "none" ? p.Loss : kind == ExampleKind.Kto ? "kto" : "dpo";
        if (p.Loss == "none")
        {
            notes($"the rows are of the kind {kind}, so they are learned from by preference.loss: {loss}.");
        }

        if ((loss == "kto") != (kind == ExampleKind.Kto))
        {
            throw new LoraSharpException($"preference.loss is {loss}, but the rows are of the kind {kind}. kto learns from single answers with a label, the others from pairs of chosen and rejected.");
        }

        if (recipe.Method == "full")
        {
            throw new LoraSharpException("preference training needs an adapter: the reference is the same base with the adapter off. Use method: lora or qlora.");
        }

        var preference = new PreferenceOptions
        {
            Kind = loss switch { "ipo" => PreferenceKind.Ipo, "hinge" => PreferenceKind.Hinge, "orpo" => PreferenceKind.Orpo, "simpo" => PreferenceKind.SimPo, "kto" => PreferenceKind.Kto, _ => PreferenceKind.Sigmoid },
            Beta = p.Beta,
            LabelSmoothing = p.LabelSmoothing,
            Gamma = p.Gamma,
        };
        return new PreferenceObjective(loaded.Model, preference, options, loaded.Adapters.Disable, Noise(), new ReferenceCache(cache, ReferenceIdentity));
    }

    // What log-probabilities of the reference depend on besides the row.
    private string ReferenceIdentity =>
        string.Join('|', recipe.Model, loaded.Model.DType, recipe.Method == "qlora" ? RecipeWriter.Settings(recipe).Where(s => s.Key.StartsWith("quantization.", StringComparison.Ordinal)).Select(s => s.Value).Prepend("qlora") : ["lora"]);

    private GrpoObjective Rewarded(TextReward? given)
    {
        GrpoRecipe g = recipe.Grpo;
        if (recipe.Method == "full" && g.Beta > 0)
        {
            throw new LoraSharpException("grpo.beta pulls to the base, which full fine-tuning changes. Expected method: lora or qlora, whose base stays, or grpo.beta: 0.");
        }

        if (recipe.Adapter.Dropout > 0 || recipe.Training.NeftuneAlpha > 0)
        {
            throw new LoraSharpException("grpo needs the sampled and the trained distribution to be the same. Expected adapter.dropout: 0 and training.neftune_alpha: 0.");
        }

        TextReward reward = given ?? (g.Reward == "regex"
            ? TextRewards.ByPattern(g.Pattern ?? throw new LoraSharpException("grpo.pattern is missing: grpo.reward is regex. Expected a regular expression that a right completion matches."))
            : (_, reference, completion) => TextRewards.ExactMatch(reference, completion));
        var grpo = new GrpoOptions { GroupSize = g.GroupSize, MaxTokens = g.MaxTokens, Temperature = g.Temperature, Beta = g.Beta, ScaleRewards = g.ScaleRewards, Iterations = g.Iterations, Epsilon = g.Epsilon, EpsilonHigh = g.EpsilonHigh > 0 ? g.EpsilonHigh : null };
        return new GrpoObjective(loaded.Model, grpo, options, GroupSampling.From(loaded), TextRewards.Decoded(reward, loaded.Tokenizer), loaded.Adapters.Disable);
    }

    /// <summary>Next-token prediction, by the fused step where it fits.</summary>
    /// <param name="adapter">What is trained; null when it is the model itself.</param>
    /// <param name="notes">Told why the fused step does not fit on a GPU.</param>
    public ITrainingObjective LanguageModeling(LoraAdapter? adapter, Action<string>? notes)
    {
        if (adapter is not null && recipe.Training.FusedStep == "auto" && loaded.Model.Device.type == TorchSharp.DeviceType.CUDA)
        {
            if (FusedObjective.Obstacle(loaded.Model, adapter, options, batches.PadToMaxLength ? batches.MaxLength : null) is not { } obstacle)
            {
                return FusedObjective.Create(loaded.Model, loaded.Adapters, adapter, options, batches.BatchSize, batches.MaxLength);
            }

            notes?.Invoke($"The fused step is not used: {obstacle}.");
        }

        return new LanguageModelingObjective(loaded.Model, options, Noise());
    }

    /// <summary>What the recipe makes random: dropout, noise on the embeddings.</summary>
    public CombinedNoise Noise()
    {
        var noise = new List<ITrainingNoise> { new AdapterNoise(loaded.Adapters, options.Seed) };
        if (options.NeftuneAlpha > 0)
        {
            noise.Add(new NeftuneNoise(options.NeftuneAlpha, options.Seed));
        }

        return new CombinedNoise(noise);
    }
}

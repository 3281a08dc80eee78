using System.Globalization;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Recipes;
using LoraSharp.Training;
using LoraSharp.Training.Sweeps;

namespace LoraSharp;

/// <summary>The trials of a sweep: every combination of what its recipe varies.</summary>
internal static class SweepGrid
{
    // Hayou et al. 2024 (arXiv 2402.12354) recommend about 2⁴.
    private const double LoraPlusRatio = 16;
    private static readonly string[] Variants = ["lora", "rslora", "dora", "loraplus", "pissa", "olora"];

    /// <summary>Every combination, in the order of the lists, then the full fine-tunings.</summary>
    /// <param name="sweep">What varies.</param>
    /// <param name="adapter">The recipe's own adapter.</param>
    /// <param name="targets">Its targets as they are written.</param>
    /// <param name="training">The recipe's own training.</param>
    /// <exception cref="LoraSharpException">Values that can't be used, all of them named.</exception>
    public static IReadOnlyList<SweepTrial> Trials(SweepRecipe sweep, LoraOptions adapter, NameSet targets, TrainerOptions training)
    {
        ThrowIfInvalid(sweep);
        double ratio = adapter.Alpha / adapter.Rank;
        IEnumerable<SweepTrial> adapters =
            from variant in OrOwn(sweep.Variants, Own(adapter, training))
            from rank in OrOwn(sweep.Ranks, adapter.Rank)
            from alpha in OrOwn(sweep.Alphas, sweep.Ranks.Count > 0 ? rank * ratio : adapter.Alpha)
            from chosen in OrOwn(sweep.Targets, targets)
            from rate in OrOwn(sweep.LearningRates, training.LearningRate)
            select Vary(
                sweep.Variants.Count > 0 ? variant : null,
                new SweepTrial(
                    Name(sweep, variant, rank, alpha, chosen, rate),
                    adapter with { Rank = rank, Alpha = alpha, Targets = RecipeSettings.Selector(chosen) },
                    training with { LearningRate = rate })
                { Targets = chosen.ToString(), Variant = variant });
        return
        [
            .. adapters,
            .. sweep.FullLearningRates.Select(rate => new SweepTrial(Text($"full-lr{rate:0.#######}"), null, training with { LearningRate = rate }) { Targets = "every weight", Variant = "full" }),
        ];
    }

    private static IReadOnlyList<T> OrOwn<T>(IReadOnlyList<T> values, T own) => values.Count > 0 ? values : [own];

    private static string Own(LoraOptions adapter, TrainerOptions training) => adapter.UseDora ? "dora"
        : adapter.UseRsLora ? "rslora"
        : training.LoraPlusRatio != 1 ? "loraplus"
        : adapter.Init.StartsWith("pissa", StringComparison.Ordinal) ? "pissa"
        : adapter.Init == "olora" ? "olora" : "lora";

    // A variant is what it is called and none of the others, whatever the recipe's own adapter is.
    private static SweepTrial Vary(string? variant, SweepTrial trial) => variant is null ? trial : trial with
    {
        Adapter = trial.Adapter! with { UseRsLora = variant == "rslora", UseDora = variant == "dora", Init = variant is "pissa" or "olora" ? variant : "true" },
        Training = trial.Training with { LoraPlusRatio = variant == "loraplus" ? LoraPlusRatio : 1 },
    };

    private static string Name(SweepRecipe sweep, string variant, int rank, double alpha, NameSet targets, double rate)
    {
        string where = sweep.Targets.Count == 0 ? string.Empty : "-" + Safe(string.Join('+', targets.ToString().Split(',').Select(t => t.Trim().Replace("_proj", string.Empty))));
        return Text($"{(sweep.Variants.Count > 0 ? variant + "-" : string.Empty)}r{rank}-a{alpha:0.##}{where}-lr{rate:0.#######}");
    }

    private static string Safe(string text) => string.Concat(text.Select(c => char.IsLetterOrDigit(c) || c is '+' or '-' or '_' ? c : '_'));

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    private static void ThrowIfInvalid(SweepRecipe sweep)
    {
        List<string> faults =
        [
            .. sweep.Ranks.Where(r => r < 1).Select(r => $"sweep.ranks: expected whole numbers above 0, found {r}"),
            .. sweep.Alphas.Where(a => a <= 0).Select(a => Text($"sweep.alphas: expected numbers above 0, found {a}")),
            .. sweep.LearningRates.Concat(sweep.FullLearningRates).Where(r => r <= 0).Select(r => Text($"sweep.learning_rates: expected numbers above 0, found {r}")),
            .. sweep.Variants.Except(Variants).Select(v => $"sweep.variants: expected some of {string.Join(", ", Variants)}, found '{v}'"),
            .. sweep.Targets.Where(t => string.IsNullOrWhiteSpace(t.Single) && t.Names.Count == 0).Select(_ => "sweep.targets: expected names or all-linear, found an empty entry"),
        ];
        if (faults.Count > 0)
        {
            throw new LoraSharpException($"The sweep can't be run:\n  {string.Join("\n  ", faults)}");
        }
    }
}

namespace LoraSharp.Training;

/// <summary>Shapes of the learning rate over a run; the recipe's names are those of transformers.</summary>
public enum ScheduleKind
{
    /// <summary>Warm-up, then flat (<c>constant_with_warmup</c>).</summary>
    Constant,

    /// <summary>Warm-up, then a straight line to 0.</summary>
    Linear,

    /// <summary>Warm-up, then half a cosine to 0.</summary>
    Cosine,

    /// <summary>Warm-up, then half a cosine to a minimum (<c>cosine_with_min_lr</c>).</summary>
    CosineWithMinimum,

    /// <summary>Warm-up, flat, then half a cosine down (<c>warmup_stable_decay</c>, MiniCPM, arXiv 2404.06395 section 4).</summary>
    WarmupStableDecay,

    /// <summary>Warm-up, then 1/√step (<c>inverse_sqrt</c>).</summary>
    InverseSquareRoot,
}

/// <summary>
/// Factor on the learning rate as a function of the optimizer step, equal to transformers' <c>get_*_schedule_with_warmup</c>:
/// the first step (0) runs at factor 0 when there is a warm-up.
/// </summary>
/// <param name="Kind">The shape.</param>
/// <param name="TotalSteps">Optimizer steps of the whole run.</param>
/// <param name="WarmupSteps">Steps of linear warm-up.</param>
/// <param name="MinimumRatio">Lowest factor of <see cref="ScheduleKind.CosineWithMinimum"/> and <see cref="ScheduleKind.WarmupStableDecay"/>.</param>
/// <param name="DecaySteps">Steps of the last phase of <see cref="ScheduleKind.WarmupStableDecay"/>.</param>
public sealed record LearningRateSchedule(ScheduleKind Kind, long TotalSteps, long WarmupSteps, double MinimumRatio = 0, long DecaySteps = 0)
{
    // transformers' default time scale of inverse_sqrt when there is no warm-up.
    private const long DefaultTimescale = 10_000;

    /// <summary>Factor at an optimizer step.</summary>
    /// <param name="step">From 0.</param>
    public double Factor(long step)
    {
        if (Kind == ScheduleKind.WarmupStableDecay)
        {
            return WarmupStableDecay(step);
        }

        if (step < WarmupSteps)
        {
            return step / (double)Math.Max(1, WarmupSteps);
        }

        double progress = (step - WarmupSteps) / (double)Math.Max(1, TotalSteps - WarmupSteps);
        return Kind switch
        {
            ScheduleKind.Linear => Math.Max(0, (TotalSteps - step) / (double)Math.Max(1, TotalSteps - WarmupSteps)),
            ScheduleKind.Cosine => Math.Max(0, HalfCosine(progress)),
            ScheduleKind.CosineWithMinimum => Math.Max(0, Above(HalfCosine(progress))),
            ScheduleKind.InverseSquareRoot => InverseSquareRoot(step),
            _ => 1,
        };
    }

    private static double HalfCosine(double progress) => 0.5 * (1 + Math.Cos(Math.PI * progress));

    private double Above(double factor) => factor * (1 - MinimumRatio) + MinimumRatio;

    private double InverseSquareRoot(long step)
    {
        long timescale = WarmupSteps > 0 ? WarmupSteps : DefaultTimescale;
        return 1 / Math.Sqrt((step + timescale - WarmupSteps) / (double)timescale);
    }

    private double WarmupStableDecay(long step)
    {
        long stable = TotalSteps - WarmupSteps - DecaySteps;
        if (step < WarmupSteps)
        {
            return Math.Max(0, Above(step / (double)Math.Max(1, WarmupSteps)));
        }

        long decayed = step - WarmupSteps - stable;
        return decayed < 0 ? 1
            : decayed < DecaySteps ? Math.Max(0, Above(HalfCosine(decayed / (double)Math.Max(1, DecaySteps))))
            : MinimumRatio;
    }
}

namespace LoraSharp.Benchmarks.Serving;

/// <summary>What the load looks like; the same seed gives the same requests at the same times.</summary>
internal sealed record LoadProfile
{
    /// <summary>Models that are asked, the most popular first.</summary>
    public required IReadOnlyList<string> Models { get; init; }

    /// <summary>How long requests arrive.</summary>
    public double Seconds { get; init; } = 60;

    /// <summary>Requests a second in quiet times.</summary>
    public double Rate { get; init; } = 2;

    /// <summary>In a burst the rate is so many times as high.</summary>
    public double Burst { get; init; } = 4;

    /// <summary>Seconds from the start of a burst to the start of the next; a burst lasts a tenth of it.</summary>
    public double BurstEvery { get; init; } = 20;

    /// <summary>Exponent of the power law by which models are chosen: the k-th has the weight k to the power of minus this (S-LoRA, section 7.1).</summary>
    public double Exponent { get; init; } = 1;

    /// <summary>Median length of a prompt in tokens; lengths are log-normal.</summary>
    public int Prompt { get; init; } = 64;

    /// <summary>Median length of an answer.</summary>
    public int Answer { get; init; } = 32;

    /// <summary>Longest prompt and answer, in medians.</summary>
    public double Longest { get; init; } = 6;

    /// <summary>Tokens that all prompts to one model begin with, as with a system prompt.</summary>
    public int Shared { get; init; } = 16;

    /// <summary>Share of clients that leave in the middle of the answer.</summary>
    public double Cancelled { get; init; } = 0.05;

    /// <summary>Share of clients that read slowly.</summary>
    public double Slow { get; init; } = 0.05;

    /// <summary>Prompts have ids below this.</summary>
    public int Vocabulary { get; init; } = 1000;

    public int Seed { get; init; } = 1;

    /// <summary>The requests in the order of their arrival.</summary>
    public IEnumerable<PlannedRequest> Plan()
    {
        var random = new Random(Seed);
        double[] weights = [.. Models.Select((_, k) => Math.Pow(k + 1, -Exponent))];
        double all = weights.Sum();
        int[][] shared = [.. Models.Select((_, m) => Ids(new Random(Seed + 1000 + m), Shared))];
        double most = Rate * Math.Max(1, Burst);
        double at = 0;
        while (true)
        {
            // A Poisson process at the highest rate, thinned where it is quieter.
            at += -Math.Log(1 - random.NextDouble()) / most;
            if (at > Seconds)
            {
                yield break;
            }

            if (random.NextDouble() * most > Rate * (at % BurstEvery < BurstEvery / 10 ? Burst : 1))
            {
                continue;
            }

            int model = Choose(random.NextDouble() * all, weights);
            int answer = Length(random, Answer);
            double kind = random.NextDouble();
            yield return new PlannedRequest(
                at,
                Models[model],
                [.. shared[model], .. Ids(random, Math.Max(1, Length(random, Prompt) - Shared))],
                answer,
                kind < Cancelled ? random.Next(1, answer + 1) : null,
                kind >= Cancelled && kind < Cancelled + Slow);
        }
    }

    private static int Choose(double place, double[] weights)
    {
        int model = 0;
        while (model < weights.Length - 1 && (place -= weights[model]) > 0)
        {
            model++;
        }

        return model;
    }

    private int Length(Random random, int median)
    {
        const double Sigma = 0.7;
        double normal = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
        return (int)Math.Clamp(median * Math.Exp(Sigma * normal), 1, Longest * median);
    }

    private int[] Ids(Random random, int count) => [.. Enumerable.Range(0, count).Select(_ => random.Next(3, Vocabulary))];
}

/// <summary>One request of a load.</summary>
/// <param name="At">Seconds after the start.</param>
/// <param name="Model">Adapter or base.</param>
/// <param name="Prompt">Token ids.</param>
/// <param name="Answer">Tokens wanted.</param>
/// <param name="LeaveAfter">Tokens after which the client leaves; null when it stays.</param>
/// <param name="IsSlow">Whether it reads slowly.</param>
internal sealed record PlannedRequest(double At, string Model, int[] Prompt, int Answer, int? LeaveAfter, bool IsSlow);

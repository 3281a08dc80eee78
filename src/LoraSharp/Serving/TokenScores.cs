namespace LoraSharp.Serving;

/// <summary>Log-probabilities out of logits.</summary>
internal static class TokenScores
{
    /// <summary>How likely a token was, and the likeliest ones.</summary>
    /// <param name="logits">[v].</param>
    /// <param name="token">The one in question.</param>
    /// <param name="top">How many of the likeliest.</param>
    public static TokenScore Of(ReadOnlySpan<float> logits, int token, int top)
    {
        double largest = double.NegativeInfinity;
        foreach (float logit in logits)
        {
            largest = Math.Max(largest, logit);
        }

        double sum = 0;
        foreach (float logit in logits)
        {
            sum += Math.Exp(logit - largest);
        }

        double log = largest + Math.Log(sum);
        var best = new PriorityQueue<int, float>();
        for (int i = 0; i < logits.Length && top > 0; i++)
        {
            if (best.Count < top)
            {
                best.Enqueue(i, logits[i]);
            }
            else if (best.TryPeek(out _, out float least) && logits[i] > least)
            {
                best.DequeueEnqueue(i, logits[i]);
            }
        }

        var ranked = new (int, double)[best.Count];
        for (int i = ranked.Length - 1; best.TryDequeue(out int id, out float logit); i--)
        {
            ranked[i] = (id, logit - log);
        }

        return new TokenScore(token, logits[token] - log, ranked);
    }
}

using System.Net;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>The figures of a load. Times are seconds.</summary>
internal sealed record LoadSummary
{
    private static readonly JsonSerializerOptions Json = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, WriteIndented = true, NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals };

    public required int Requests { get; init; }

    public required int Answered { get; init; }

    public required int Left { get; init; }

    /// <summary>Refusals with 429 or 503.</summary>
    public required int Refused { get; init; }

    /// <summary>Anything else that went wrong, by message.</summary>
    public required IReadOnlyDictionary<string, int> Errors { get; init; }

    public required int Models { get; init; }

    public required double Seconds { get; init; }

    public required long PromptTokens { get; init; }

    public required long AnswerTokens { get; init; }

    public double TokensPerSecond => AnswerTokens / Seconds;

    public double PromptTokensPerSecond => PromptTokens / Seconds;

    /// <summary>From sending a request to its first token.</summary>
    public required Percentiles TimeToFirstToken { get; init; }

    /// <summary>From one token to the next; slow readers left out.</summary>
    public required Percentiles BetweenTokens { get; init; }

    /// <summary>From sending a request to its last token; those who left or read slowly left out.</summary>
    public required Percentiles WholeAnswer { get; init; }

    public static LoadSummary Of(IReadOnlyCollection<(PlannedRequest Request, StreamedAnswer Answer)> outcomes, double seconds)
    {
        bool IsRefused(StreamedAnswer a) => a.Status is HttpStatusCode.TooManyRequests or HttpStatusCode.ServiceUnavailable;
        StreamedAnswer[] answers = [.. outcomes.Select(o => o.Answer)];
        return new LoadSummary
        {
            Requests = answers.Length,
            Answered = answers.Count(a => a.Error is null && !a.Left),
            Left = answers.Count(a => a.Left),
            Refused = answers.Count(IsRefused),
            Errors = answers.Where(a => a.Error is not null && !IsRefused(a)).GroupBy(a => a.Error!).ToDictionary(g => g.Key, g => g.Count()),
            Models = outcomes.Select(o => o.Request.Model).Distinct().Count(),
            Seconds = seconds,
            PromptTokens = outcomes.Where(o => o.Answer.FirstToken is not null).Sum(o => (long)o.Request.Prompt.Length),
            AnswerTokens = answers.Sum(a => (long)a.Tokens),
            TimeToFirstToken = Percentiles.Of(answers.Where(a => a.FirstToken is not null).Select(a => a.FirstToken!.Value)),
            BetweenTokens = Percentiles.Of(outcomes.Where(o => !o.Request.IsSlow).SelectMany(o => o.Answer.Gaps)),
            WholeAnswer = Percentiles.Of(outcomes.Where(o => !o.Request.IsSlow && !o.Answer.Left && o.Answer.Error is null).Select(o => o.Answer.Seconds)),
        };
    }

    public string ToJson() => JsonSerializer.Serialize(this, Json);

    public string ToText() => string.Join(
        Environment.NewLine,
        $"{Requests} requests to {Models} models in {Seconds:F1} s: {Answered} answered, {Left} left, {Refused} refused, {Errors.Values.Sum()} failed",
        $"{TokensPerSecond:F1} tokens/s generated, {PromptTokensPerSecond:F1} prompt tokens/s",
        $"time to first token  {TimeToFirstToken}",
        $"between tokens       {BetweenTokens}",
        $"whole answer         {WholeAnswer}",
        string.Join(Environment.NewLine, Errors.Select(e => $"  {e.Value} x {e.Key}"))).TrimEnd();
}

/// <summary>Of a set of times, in seconds; NaN where there are none.</summary>
internal sealed record Percentiles(double P50, double P95, double P99, double Most)
{
    public static Percentiles Of(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        double At(double share) => sorted.Length == 0 ? double.NaN : sorted[Math.Min(sorted.Length - 1, (int)Math.Ceiling(share * sorted.Length) - 1 is >= 0 and int i ? i : 0)];
        return new Percentiles(At(0.50), At(0.95), At(0.99), At(1));
    }

    public override string ToString() => $"p50 {P50 * 1e3,7:F0} ms   p95 {P95 * 1e3,7:F0} ms   p99 {P99 * 1e3,7:F0} ms   most {Most * 1e3,7:F0} ms";
}

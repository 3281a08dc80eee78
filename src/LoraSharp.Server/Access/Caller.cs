using System.Threading.RateLimiting;

namespace LoraSharp.Server.Access;

/// <summary>The holder of a key while the server runs: what it may see, and what of its allowances is left.</summary>
internal sealed class Caller(ApiKey key) : IDisposable
{
    private readonly TokenBucketRateLimiter? _requests = key.RequestsPerMinute > 0 ? Buckets.PerMinute(key.RequestsPerMinute) : null;
    private readonly ConcurrencyLimiter? _concurrent = key.MaxConcurrent > 0 ? new(new ConcurrencyLimiterOptions { PermitLimit = key.MaxConcurrent, QueueLimit = 0 }) : null;

    public ApiKey Key => key;

    /// <summary>Tokens a minute; null without a limit.</summary>
    public TokenAllowance? Tokens { get; } = key.TokensPerMinute > 0 ? new TokenAllowance(key.TokensPerMinute) : null;

    /// <summary>Whether an adapter of this name exists for this caller.</summary>
    public bool MaySee(string adapter)
    {
        foreach (string pattern in key.Adapters)
        {
            if (pattern.EndsWith('*') ? adapter.AsSpan().StartsWith(pattern.AsSpan(0, pattern.Length - 1), StringComparison.Ordinal) : adapter == pattern)
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>Counts a request; dispose what it gives when the request has ended.</summary>
    /// <exception cref="ApiError">429: too many.</exception>
    public IDisposable? Enter()
    {
        RateLimitLease? lease = _concurrent?.AttemptAcquire();
        if (lease is { IsAcquired: false })
        {
            lease.Dispose();
            throw ApiError.TooMany($"{key.MaxConcurrent} requests of '{key.Name}' are under way already.", TimeSpan.FromSeconds(1));
        }

        using RateLimitLease? counted = _requests?.AttemptAcquire();
        if (counted is { IsAcquired: false })
        {
            lease?.Dispose();
            TimeSpan wait = counted.TryGetMetadata(MetadataName.RetryAfter, out TimeSpan given) ? given : TimeSpan.FromMinutes(1);
            throw ApiError.TooMany($"'{key.Name}' may send {key.RequestsPerMinute} requests a minute.", wait);
        }

        return lease;
    }

    /// <summary>Takes prompt tokens off the allowance.</summary>
    /// <exception cref="ApiError">429: there are not enough.</exception>
    public void Admit(int promptTokens)
    {
        if (Tokens is { } tokens && !tokens.TryAdmit(promptTokens, out TimeSpan wait))
        {
            throw ApiError.TooMany($"'{key.Name}' may use {key.TokensPerMinute} tokens a minute, prompts and answers; {tokens.Remaining} are left and the request has {promptTokens}.", wait);
        }
    }

    /// <summary>The limits as OpenAI's headers tell them.</summary>
    public IEnumerable<(string Name, long Value)> Headers()
    {
        if (_requests is not null)
        {
            yield return ("x-ratelimit-limit-requests", key.RequestsPerMinute);
            yield return ("x-ratelimit-remaining-requests", _requests.GetStatistics()?.CurrentAvailablePermits ?? 0);
        }

        if (Tokens is { } tokens)
        {
            yield return ("x-ratelimit-limit-tokens", tokens.PerMinute);
            yield return ("x-ratelimit-remaining-tokens", tokens.Remaining);
        }
    }

    public void Dispose()
    {
        _requests?.Dispose();
        _concurrent?.Dispose();
        Tokens?.Dispose();
    }
}

using System.Threading.RateLimiting;

namespace LoraSharp.Server.Access;

/// <summary>
/// Tokens a minute. A prompt is paid when it is let in; an answer's length is not known then, so its tokens are owed and paid
/// before the next prompt is let in. So a long answer is never cut, and the rate holds over time.
/// </summary>
internal sealed class TokenAllowance(int perMinute) : IDisposable
{
    private readonly TokenBucketRateLimiter _bucket = Buckets.PerMinute(perMinute);
    private readonly Lock _lock = new();
    private long _owed;

    /// <summary>Most there can be at once.</summary>
    public int PerMinute => perMinute;

    /// <summary>What is left now.</summary>
    public long Remaining
    {
        get
        {
            lock (_lock)
            {
                Pay();
                return Math.Max(0, (_bucket.GetStatistics()?.CurrentAvailablePermits ?? 0) - _owed);
            }
        }
    }

    /// <summary>Takes a prompt's tokens; else says how long it takes until they are there.</summary>
    public bool TryAdmit(int tokens, out TimeSpan retryAfter)
    {
        lock (_lock)
        {
            Pay();
            using RateLimitLease? lease = _owed == 0 ? _bucket.AttemptAcquire(Math.Min(tokens, perMinute)) : null;
            if (lease is { IsAcquired: true })
            {
                // A prompt larger than the bucket is let in by a full one and owes the rest.
                _owed += Math.Max(0, tokens - perMinute);
                retryAfter = default;
                return true;
            }

            long missing = _owed + Math.Min(tokens, perMinute) - (_bucket.GetStatistics()?.CurrentAvailablePermits ?? 0);
            retryAfter = TimeSpan.FromSeconds(Math.Max(1, Math.Ceiling(missing * 60.0 / perMinute)));
            return false;
        }
    }

    /// <summary>Owes tokens that were generated.</summary>
    public void Owe(int tokens)
    {
        lock (_lock)
        {
            _owed += tokens;
            Pay();
        }
    }

    public void Dispose() => _bucket.Dispose();

    private void Pay()
    {
        long available = Math.Min(_owed, _bucket.GetStatistics()?.CurrentAvailablePermits ?? 0);
        if (available > 0)
        {
            using RateLimitLease lease = _bucket.AttemptAcquire((int)available);
            _owed -= lease.IsAcquired ? available : 0;
        }
    }
}

/// <summary>Buckets that fill evenly.</summary>
internal static class Buckets
{
    private const int FastestPeriods = 600;

    /// <summary>A full bucket of a minute's worth that fills by one at a time, or every tenth of a second where that is faster.</summary>
    public static TokenBucketRateLimiter PerMinute(int count)
    {
        int each = Math.Max(1, count / FastestPeriods);
        return new TokenBucketRateLimiter(new TokenBucketRateLimiterOptions
        {
            TokenLimit = count,
            TokensPerPeriod = each,
            ReplenishmentPeriod = TimeSpan.FromMinutes(1) * each / count,
            QueueLimit = 0,
            AutoReplenishment = true,
        });
    }
}

using System.Collections.Immutable;
using LoraSharp.Inference.Constraints;

namespace LoraSharp.Inference;

/// <summary>
/// Chooses the tokens of one sequence. It has random numbers of its own, so that a sequence comes out the same whatever
/// else is generated beside it.
/// </summary>
/// <remarks>Order: bias, constraint, penalties, temperature, top-k, top-p, min-p, as transformers applies them.</remarks>
public sealed class Sampler
{
    private readonly SamplingOptions _options;
    private readonly HashSet<int> _seen = [];
    private readonly Dictionary<int, int> _generated = [];
    private readonly ConstraintState? _constraint;
    private ulong _state;
    private float[] _logits = [];
    private int[] _order = [];

    /// <summary>Creates a sampler for one sequence.</summary>
    /// <param name="options">Checked here.</param>
    /// <param name="prompt">Tokens that the repetition penalty counts as seen.</param>
    public Sampler(SamplingOptions options, IEnumerable<int> prompt)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(prompt);
        _options = options.Validate();
        _state = (ulong)options.Seed;
        _constraint = options.Constraint is { } constraint ? new(constraint) : null;
        if (options.RepetitionPenalty != 1)
        {
            _seen.UnionWith(prompt);
        }
    }

    /// <summary>The options it was made with.</summary>
    public SamplingOptions Options => _options;

    /// <summary>Whether the constraint lets nothing follow: the text is complete.</summary>
    public bool HasEnded => _constraint?.HasEnded == true;

    /// <summary>The next token; it is counted as generated.</summary>
    /// <param name="logits">One a token of the vocabulary; not changed.</param>
    public int Next(ReadOnlySpan<float> logits)
    {
        int token = Choose(logits);
        while (_constraint?.Vetoes(token) == true)
        {
            token = Choose(logits);
        }

        Accept(token);
        return token;
    }

    /// <summary>Counts a token that was chosen elsewhere (e.g. by an argmax on the device).</summary>
    public void Accept(int token)
    {
        _constraint?.Accept(token);
        if (_options.RepetitionPenalty != 1)
        {
            _seen.Add(token);
        }

        if (_options.FrequencyPenalty != 0 || _options.PresencePenalty != 0)
        {
            _generated[token] = _generated.GetValueOrDefault(token) + 1;
        }
    }

    /// <summary>Index of the largest logit, the first of several.</summary>
    public static int ArgMax(ReadOnlySpan<float> logits)
    {
        int best = 0;
        for (int i = 1; i < logits.Length; i++)
        {
            if (logits[i] > logits[best])
            {
                best = i;
            }
        }

        return best;
    }

    private int Choose(ReadOnlySpan<float> logits)
    {
        if (_options.IsGreedy)
        {
            return ArgMax(logits);
        }

        if (_logits.Length != logits.Length)
        {
            _logits = new float[logits.Length];
            _order = new int[logits.Length];
        }

        logits.CopyTo(_logits);
        foreach ((int token, double bias) in _options.LogitBias ?? ImmutableDictionary<int, double>.Empty)
        {
            if (token < _logits.Length)
            {
                _logits[token] += (float)bias;
            }
        }

        _constraint?.Apply(_logits);
        Penalize();
        return _options.Temperature == 0 ? ArgMax(_logits) : Draw();
    }

    private void Penalize()
    {
        foreach (int token in _seen)
        {
            float logit = _logits[token];
            _logits[token] = (float)(logit > 0 ? logit / _options.RepetitionPenalty : logit * _options.RepetitionPenalty);
        }

        foreach ((int token, int count) in _generated)
        {
            _logits[token] -= (float)((count * _options.FrequencyPenalty) + _options.PresencePenalty);
        }
    }

    private int Draw()
    {
        float largest = float.NegativeInfinity;
        foreach (float logit in _logits)
        {
            largest = Math.Max(largest, logit);
        }

        // exp((logit - max) / T), of the candidates.
        int count = 0;
        double floor = _options.MinP > 0 ? Math.Log(_options.MinP) : double.NegativeInfinity;
        bool ranked = _options.TopK > 0 || _options.TopP < 1;
        for (int i = 0; i < _logits.Length; i++)
        {
            double scaled = (_logits[i] - largest) / _options.Temperature;
            _logits[i] = (float)scaled;

            // exp(-40) is below what float32 adds to a sum of order one: such tokens can't be drawn and needn't be sorted.
            if ((ranked || scaled >= floor) && scaled > -40)
            {
                _order[count++] = i;
            }
        }

        Span<int> candidates = _order.AsSpan(0, count);
        if (ranked)
        {
            // Ties by id, so that runs repeat. Where nothing is cut off by rank, any order will do: sorting a vocabulary costs more than all the rest.
            float[] scores = _logits;
            candidates.Sort((a, b) => scores[b] != scores[a] ? scores[b].CompareTo(scores[a]) : a.CompareTo(b));
        }

        if (_options.TopK > 0 && _options.TopK < count)
        {
            candidates = candidates[.._options.TopK];
        }

        double total = Mass(candidates);
        if (_options.TopP < 1)
        {
            double reached = 0;
            for (int i = 0; i < candidates.Length; i++)
            {
                reached += Math.Exp(_logits[candidates[i]]) / total;
                if (reached >= _options.TopP)
                {
                    candidates = candidates[..(i + 1)];
                    break;
                }
            }

            total = Mass(candidates);
        }

        // After top-p, whose probabilities count what falls here.
        if (ranked && _options.MinP > 0)
        {
            int kept = candidates.Length;
            while (kept > 1 && _logits[candidates[kept - 1]] < floor)
            {
                kept--;
            }

            candidates = candidates[..kept];
            total = Mass(candidates);
        }

        double threshold = NextUniform() * total;
        foreach (int token in candidates)
        {
            threshold -= Math.Exp(_logits[token]);
            if (threshold < 0)
            {
                return token;
            }
        }

        return candidates[^1];
    }

    private double Mass(ReadOnlySpan<int> tokens)
    {
        double sum = 0;
        foreach (int token in tokens)
        {
            sum += Math.Exp(_logits[token]);
        }

        return sum;
    }

    // SplitMix64 (Steele et al. 2014): 53 random bits in [0, 1).
    private double NextUniform()
    {
        ulong z = _state += 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        return ((z ^ (z >> 31)) >> 11) * (1.0 / (1UL << 53));
    }
}

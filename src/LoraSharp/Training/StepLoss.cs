using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Training;

/// <summary>
/// The sums of an optimizer step's micro-batches, or of an evaluation's. They stay on the device until
/// <see cref="Read"/> fetches all of them at once.
/// </summary>
internal sealed class StepLoss : IDisposable
{
    private readonly List<(MicroBatch Batch, MicroBatchLoss Loss)> _parts = [];
    private readonly Dictionary<string, double> _metrics = new(StringComparer.Ordinal);

    /// <summary>Mean loss; NaN before <see cref="Read"/>.</summary>
    public double Loss { get; private set; } = double.NaN;

    /// <summary>Norm of the gradient; NaN before <see cref="Read"/>.</summary>
    public double GradNorm { get; private set; } = double.NaN;

    /// <summary>Means of the objective's other sums.</summary>
    public IDictionary<string, double> Metrics => _metrics;

    /// <summary>Whether loss and gradient are numbers.</summary>
    public bool IsFinite => double.IsFinite(Loss) && double.IsFinite(GradNorm);

    public void Add(MicroBatch batch, MicroBatchLoss loss) => _parts.Add((batch, loss));

    /// <summary>Waits for the device, once.</summary>
    public void Read(Tensor norm)
    {
        double weight = _parts.Sum(p => p.Loss.Weight);
        string[] names = [.. _parts.SelectMany(p => p.Loss.Metrics.Keys).Distinct(StringComparer.Ordinal)];
        using var none = no_grad();
        using var scope = NewDisposeScope();
        List<Tensor> sums = [norm.to(ScalarType.Float64).reshape(1), Sum(p => p.Sum)];
        sums.AddRange(names.Select(name => Sum(p => p.Metrics.GetValueOrDefault(name))));
        double[] values = cat(sums, 0).cpu().data<double>().ToArray();
        GradNorm = values[0];
        Loss = weight == 0 ? 0 : values[1] / weight;
        for (int i = 0; i < names.Length; i++)
        {
            double divisor = _parts.Where(p => p.Loss.Metrics.ContainsKey(names[i])).Sum(p => p.Loss.MetricWeights.GetValueOrDefault(names[i], p.Loss.Weight));
            _metrics[names[i]] = divisor == 0 ? 0 : values[i + 2] / divisor;
        }

        Tensor Sum(Func<MicroBatchLoss, Tensor?> of)
        {
            Tensor total = zeros(1, ScalarType.Float64, norm.device);
            foreach ((_, MicroBatchLoss loss) in _parts)
            {
                if (of(loss) is { } part)
                {
                    total.add_(part.to(ScalarType.Float64));
                }
            }

            return total;
        }
    }

    /// <summary>The rows with the highest mean losses, worst first, NaN before all.</summary>
    public IReadOnlyList<string> WorstRows(int count)
    {
        List<(double Loss, string Origin)> rows = [];
        foreach ((MicroBatch batch, MicroBatchLoss loss) in _parts)
        {
            using Tensor wide = loss.BySequence.to(ScalarType.Float64);
            using Tensor host = wide.cpu();
            double[] sums = host.data<double>().ToArray();
            for (int i = 0; i < sums.Length; i++)
            {
                if (loss.SequenceWeights[i] > 0)
                {
                    // Without an origin for each sequence the whole pass is named.
                    string origin = batch.Origins.Count == sums.Length ? batch.Origins[i] : string.Join(", ", batch.Origins);
                    rows.Add((sums[i] / loss.SequenceWeights[i], origin));
                }
            }
        }

        return [.. rows.OrderByDescending(r => double.IsFinite(r.Loss) ? r.Loss : double.PositiveInfinity).Take(count)
            .Select(r => FormattableString.Invariant($"{r.Origin} (loss {r.Loss:0.###})"))];
    }

    public void Dispose()
    {
        foreach ((_, MicroBatchLoss loss) in _parts)
        {
            loss.Dispose();
        }
    }
}

using static TorchSharp.torch;

namespace LoraSharp.Adapters.Initialization;

/// <summary>
/// The first principal directions of rows that come batch by batch, in the memory of one batch: each is decomposed
/// together with what is known so far and a row for the shift of the mean (Ross et al. 2008, "Incremental Learning for
/// Robust Visual Tracking", section 2.1).
/// </summary>
/// <param name="components">n, how many directions.</param>
/// <param name="generator">For the randomised decomposition, on the CPU.</param>
internal sealed class IncrementalSvd(int components, Generator generator) : IDisposable
{
    private const int PowerIterations = 4;
    private Tensor? _mean;
    private double _count;
    private double _scatter;

    /// <summary>n.</summary>
    public int Components => components;

    /// <summary>Directions as rows [n, k], the strongest first; null before the first batch.</summary>
    public Tensor? Directions { get; private set; }

    /// <summary>Their singular values [n], falling.</summary>
    public Tensor? Values { get; private set; }

    /// <summary>Share of the rows' variance that each direction explains; empty before the first batch.</summary>
    public double[] Explained { get; private set; } = [];

    /// <summary>|cosine| of each direction with what it was one batch ago; empty before the second batch.</summary>
    public double[] Steadiness { get; private set; } = [];

    /// <summary>Takes in rows [m, k] with m ≥ n, float32.</summary>
    public void Add(Tensor rows)
    {
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        double added = rows.shape[0];
        Tensor mean = rows.mean([0], type: ScalarType.Float64);
        Tensor centred = rows - mean.to(ScalarType.Float32);
        _scatter += centred.square().sum(ScalarType.Float64).item<double>();
        Tensor all = centred;
        Tensor? before = Directions;
        if (before is not null)
        {
            double pooled = _count * added / (_count + added);
            Tensor shift = _mean! - mean;
            _scatter += pooled * shift.square().sum().item<double>();
            all = cat([Values!.unsqueeze(1) * before, centred, (shift * Math.Sqrt(pooled)).to(ScalarType.Float32).unsqueeze(0)], 0);
            mean = ((_mean! * _count) + (mean * added)) / (_count + added);
        }

        (Tensor values, Tensor directions) = Decompose(all);
        Steadiness = before is null ? [] : [.. (directions * before).sum(1).abs().to(ScalarType.Float64).cpu().data<double>()];
        _count += added;
        Keep(mean, values, directions);
        Explained = [.. values.to(ScalarType.Float64).cpu().data<double>().Select(v => _scatter > 0 ? v * v / _scatter : 0)];
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _mean?.Dispose();
        Values?.Dispose();
        Directions?.Dispose();
    }

    private (Tensor Values, Tensor Directions) Decompose(Tensor rows)
    {
        // As in PEFT: twice the directions wanted, four power iterations.
        int wanted = 2 * components;
        (_, Tensor s, Tensor vt) = Math.Min(rows.shape[0], rows.shape[1]) <= wanted
            ? linalg.svd(rows, fullMatrices: false)
            : LowRankSvd.Randomised(rows, wanted, PowerIterations, generator);
        Tensor directions = vt.narrow(0, 0, components);

        // A sign that depends on the direction alone, so that a run can be repeated.
        Tensor largest = directions.gather(1, directions.abs().argmax(1, keepdim: true));
        return (s.narrow(0, 0, components), directions * largest.sign());
    }

    private void Keep(Tensor mean, Tensor values, Tensor directions)
    {
        Dispose();
        _mean = mean.DetachFromDisposeScope();
        Values = values.DetachFromDisposeScope();
        Directions = directions.DetachFromDisposeScope();
    }
}

namespace LoraSharp.Training;

/// <summary>Losses of the last steps: what a spike is measured against.</summary>
internal sealed class LossHistory(double spikeFactor)
{
    private const int Kept = 50;
    private const int NeededForSpike = 10;
    private const int Averaged = 20;
    private readonly Queue<double> _losses = [];

    public IReadOnlyList<double> Losses => [.. _losses];

    /// <summary>Mean of the last steps.</summary>
    public double Mean => _losses.Count == 0 ? double.NaN : _losses.TakeLast(Averaged).Average();

    public void Add(double loss)
    {
        _losses.Enqueue(loss);
        if (_losses.Count > Kept)
        {
            _losses.Dequeue();
        }
    }

    public bool IsSpike(double loss, out double usual)
    {
        double[] sorted = [.. _losses.Order()];
        usual = sorted.Length == 0 ? double.NaN : sorted[sorted.Length / 2];
        return spikeFactor > 0 && sorted.Length >= NeededForSpike && loss > usual * spikeFactor;
    }

    public void Restore(IEnumerable<double> losses)
    {
        _losses.Clear();
        foreach (double loss in losses)
        {
            Add(loss);
        }
    }
}

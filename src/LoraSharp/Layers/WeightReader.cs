using LoraSharp.Formats;
using LoraSharp.Tensors;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>
/// Gives a model's layers their weights: from an <see cref="ITensorSource"/>, in one compute type, on one device.
/// Checks shapes, remembers what was read, and hands out a tied tensor once. Faults are collected, so that
/// <see cref="ThrowIfFaulty"/> names them all at once.
/// </summary>
public sealed class WeightReader : IDisposable
{
    private readonly Dictionary<string, Tensor> _shared = [];
    private readonly HashSet<string> _used = [];
    private readonly List<string> _faults = [];

    /// <summary>Creates a reader.</summary>
    /// <param name="source">The checkpoint; must outlive every tensor that is mapped from it.</param>
    /// <param name="dtype">Type of floating-point tensors handed out.</param>
    /// <param name="device">Where they are put.</param>
    public WeightReader(ITensorSource source, ScalarType dtype, Device device)
    {
        Source = source;
        DType = dtype;
        Device = device;
    }

    /// <summary>The checkpoint.</summary>
    public ITensorSource Source { get; }

    /// <summary>Type of floating-point tensors handed out.</summary>
    public ScalarType DType { get; }

    /// <summary>Where tensors are put.</summary>
    public Device Device { get; }

    /// <summary>Whether the checkpoint has this tensor.</summary>
    public bool Has(string name) => Source.Tensors.ContainsKey(name);

    /// <summary>
    /// The tensor converted to <see cref="DType"/> on <see cref="Device"/>, for the caller to own. A tensor that is
    /// already of that type on the CPU is laid over the mapped file, without a copy. A missing tensor or a wrong
    /// shape is recorded and zeros are returned: loading goes on to find every fault, then fails.
    /// </summary>
    /// <param name="name">Its name in the checkpoint.</param>
    /// <param name="shape">The shape it must have.</param>
    /// <param name="writable">True for a tensor that will be trained: it gets memory of its own, never the read-only map.</param>
    public Tensor Read(string name, IReadOnlyList<long> shape, bool writable = false)
    {
        ArgumentNullException.ThrowIfNull(shape);
        if (!Source.Tensors.TryGetValue(name, out TensorInfo? info))
        {
            _faults.Add($"missing: {name} [{string.Join(", ", shape)}]");
            return zeros([.. shape], DType, Device);
        }

        _used.Add(name);
        if (!info.Shape.SequenceEqual(shape))
        {
            _faults.Add($"shape: {name} expected [{string.Join(", ", shape)}], found {info.ShapeText}");
            return zeros([.. shape], DType, Device);
        }

        TensorData data = Source.Read(name);
        Tensor tensor = TensorBytes.ToTensor(data, DType, Device);
        if (!writable || !data.IsMapped || Device.type != DeviceType.CPU || tensor.dtype != data.Info.Type.ToScalarType())
        {
            return tensor;
        }

        using (tensor)
        {
            return tensor.clone();
        }
    }

    /// <summary>As <see cref="Read"/>, but one tensor shared by all who ask for this name (tied weights): each gets an alias of it.</summary>
    public Tensor Shared(string name, IReadOnlyList<long> shape, bool writable = false)
    {
        if (!_shared.TryGetValue(name, out Tensor? tensor))
        {
            tensor = Read(name, shape, writable).DetachFromDisposeScope();
            _shared.Add(name, tensor);
        }

        return tensor.alias();
    }

    /// <summary>Marks tensors as known, so that they are not reported as left over.</summary>
    public void Ignore(string name) => _used.Add(name);

    /// <summary>Records a fault found by a layer.</summary>
    public void Fault(string message) => _faults.Add(message);

    /// <summary>How many tensors are missing, misshapen or left over.</summary>
    /// <param name="mayRemain">As in <see cref="ThrowIfFaulty"/>.</param>
    public int CountFaults(Func<string, bool>? mayRemain = null) =>
        _faults.Count + Source.Tensors.Keys.Count(n => !_used.Contains(n) && mayRemain?.Invoke(n) != true);

    /// <summary>Fails with everything that is missing, misshapen or left over.</summary>
    /// <param name="mayRemain">Tells of a tensor nobody read that this is fine (e.g. <c>rotary_emb.inv_freq</c>).</param>
    public void ThrowIfFaulty(Func<string, bool>? mayRemain = null)
    {
        IEnumerable<string> left = Source.Tensors.Keys.Where(n => !_used.Contains(n) && mayRemain?.Invoke(n) != true)
            .Order(StringComparer.Ordinal).Select(n => $"left over: {n} {Source.Tensors[n].ShapeText}");
        List<string> all = [.. _faults, .. left];
        if (all.Count > 0)
        {
            string list = string.Join("\n  ", all.Take(40)) + (all.Count > 40 ? $"\n  ... and {all.Count - 40} more" : string.Empty);
            throw new LoraSharpException(
                $"{Source.Location}: the tensors do not fit the model that config.json describes ({all.Count} faults):\n  {list}\n" +
                "Check that config.json and the weights belong together.");
        }
    }

    /// <summary>Frees the reader's own handles of shared tensors; the layers' aliases live on.</summary>
    public void Dispose()
    {
        foreach (Tensor tensor in _shared.Values)
        {
            tensor.Dispose();
        }

        _shared.Clear();
    }
}

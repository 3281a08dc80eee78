using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Quantization;

/// <summary>
/// One piece of memory that the layers of a model dequantise into, one after the other: as large as the largest matrix,
/// in the compute type, on the model's device. What lies in it is valid until the next <see cref="Use"/>.
/// </summary>
public sealed class DequantizationBuffer : IDisposable
{
    private readonly Lock _lock = new();
    private Tensor? _memory;

    /// <summary>The gradient nodes of the layers that share this buffer.</summary>
    public GradientNodes Nodes { get; } = new();

    /// <summary>
    /// Dequantises a matrix and hands it to <paramref name="work"/>; one at a time. On a GPU the stream's order keeps the
    /// next matrix from being written before the work has read this one.
    /// </summary>
    /// <param name="weight">The matrix.</param>
    /// <param name="dtype">Compute type.</param>
    /// <param name="work">From [f, k] to a new tensor that does not share its memory.</param>
    public Tensor Use(IQuantizedMatrix weight, ScalarType dtype, Func<Tensor, Tensor> work)
    {
        ArgumentNullException.ThrowIfNull(weight);
        ArgumentNullException.ThrowIfNull(work);
        lock (_lock)
        {
            long count = weight.Rows * weight.Columns;
            Device device = weight.Device;
            if (_memory is null || _memory.dtype != dtype || _memory.NumberOfElements < count || !IsOn(_memory, device))
            {
                _memory?.Dispose();
                _memory = empty([count], dtype, device).DetachFromDisposeScope();
            }

            using Tensor piece = _memory.narrow(0, 0, count);
            using Tensor matrix = piece.view(weight.Rows, weight.Columns);
            weight.DequantizeInto(matrix);
            return work(matrix);
        }
    }

    // TorchSharp's devices are compared by reference, and every tensor gives a new one.
    private static bool IsOn(Tensor tensor, Device device) => tensor.device_type == device.type && tensor.device_index == device.index;

    /// <inheritdoc/>
    public void Dispose()
    {
        _memory?.Dispose();
        Nodes.Dispose();
    }
}

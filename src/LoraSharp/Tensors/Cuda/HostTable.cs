using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Tensors.Cuda;

/// <summary>
/// A GPU's tensor whose numbers lie in page-locked host memory: kernels read them over the bus (CUDA's unified addresses), so
/// that a table of which a step reads few rows takes no device memory.
/// </summary>
internal sealed class HostTable : IDisposable
{
    private readonly long[] _shape;
    private readonly ScalarType _type;
    private readonly int _device;
    private nint _memory;

    /// <summary>Copies a tensor of a GPU.</summary>
    public HostTable(Tensor source)
    {
        ArgumentNullException.ThrowIfNull(source);
        _shape = source.shape;
        _type = source.dtype;
        _device = Math.Max(source.device.index, 0);
        nuint bytes = (nuint)(source.NumberOfElements * source.ElementSize);
        CudaDriver.Check(CudaDriver.cuMemAllocHost(out _memory, bytes), $"allocate {bytes} bytes of page-locked host memory");
        using Tensor view = View();
        using Tensor copied = view.copy_(source);
        cuda.synchronize();
    }

    /// <summary>A tensor of the device over the memory; not to be used once this is disposed.</summary>
    public Tensor View() => AtenTensor.FromPointer(_memory, _shape, _type, TorchSharp.DeviceType.CUDA, _device);

    /// <summary>Frees the memory once the device has done what it was given.</summary>
    public void Dispose()
    {
        if (_memory != 0)
        {
            cuda.synchronize();
            _ = CudaDriver.cuMemFreeHost(_memory);
            _memory = 0;
        }
    }
}

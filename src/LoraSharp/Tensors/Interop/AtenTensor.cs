using System.Runtime.InteropServices;
using LoraSharp.Formats;
using static TorchSharp.torch;

namespace LoraSharp.Tensors.Interop;

/// <summary>
/// libtorch's stable C interface for what TorchSharp does not surface. <c>Tensor.Handle</c> is an <c>at::Tensor*</c>,
/// which is just what this interface calls an <c>AtenTensorHandle</c>.
/// </summary>
public static unsafe partial class AtenTensor
{
    private const string Library = "torch_cpu";

    /// <summary>A tensor over memory that the caller keeps alive; never freed by the tensor.</summary>
    /// <param name="data">Address of the first element.</param>
    /// <param name="shape">Sizes; rows lie one after the other.</param>
    /// <param name="dtype">Element type.</param>
    /// <param name="device">Whose operators work on it; memory that is not the device's must be registered with it.</param>
    /// <param name="index">Which one.</param>
    public static Tensor FromPointer(nint data, IReadOnlyList<long> shape, ScalarType dtype, TorchSharp.DeviceType device = TorchSharp.DeviceType.CPU, int index = 0)
    {
        ArgumentNullException.ThrowIfNull(shape);
        NativeRuntime.EnsureLoaded();
        long[] sizes = [.. shape];
        long[] strides = new long[sizes.Length];
        long stride = 1;
        for (int i = sizes.Length - 1; i >= 0; i--)
        {
            strides[i] = stride;
            stride *= sizes[i];
        }

        fixed (long* size = sizes, step = strides)
        {
            Check(aoti_torch_create_tensor_from_blob(data, sizes.Length, size, step, 0, (int)dtype, (int)device, index, out nint handle), "create a tensor over given memory");
            return Tensor.UnsafeCreateTensor(handle);
        }
    }

    /// <summary>Address of the first element, with the view's offset; any type, any device.</summary>
    public static nint DataPointer(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        Check(aoti_torch_get_data_ptr(tensor.Handle, out nint pointer), "read a tensor's address");
        return pointer;
    }

    internal static void Check(int code, string what)
    {
        if (code != 0)
        {
            throw new LoraSharpException($"libtorch could not {what} (code {code}); its message is on standard error.");
        }
    }

    [LibraryImport(Library)]
    private static partial int aoti_torch_create_tensor_from_blob(nint data, long dimensions, long* sizes, long* strides, long offset, int dtype, int deviceType, int deviceIndex, out nint result);

    [LibraryImport(Library)]
    private static partial int aoti_torch_get_data_ptr(nint tensor, out nint pointer);
}

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

    /// <summary>A CPU tensor over memory that the caller keeps alive; never freed by the tensor.</summary>
    public static Tensor FromPointer(nint data, IReadOnlyList<long> shape, ScalarType dtype)
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
            Check(aoti_torch_create_tensor_from_blob(data, sizes.Length, size, step, 0, (int)dtype, 0, 0, out nint handle), "create a tensor over mapped memory");
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

using LoraSharp.Formats;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Tensors;

/// <summary>Between the bytes of a checkpoint and tensors.</summary>
public static unsafe class TensorBytes
{
    /// <summary>The tensor's type on disk as a TorchSharp type.</summary>
    public static ScalarType ToScalarType(this ElementType type) => type switch
    {
        ElementType.F64 => ScalarType.Float64,
        ElementType.F32 => ScalarType.Float32,
        ElementType.F16 => ScalarType.Float16,
        ElementType.BF16 => ScalarType.BFloat16,
        ElementType.I64 => ScalarType.Int64,
        ElementType.I32 => ScalarType.Int32,
        ElementType.I16 => ScalarType.Int16,
        ElementType.I8 => ScalarType.Int8,
        ElementType.U8 => ScalarType.Byte,
        ElementType.Bool => ScalarType.Bool,
        // Not in TorchSharp's enumeration, but libtorch's own numbers pass through it.
        ElementType.F8E5M2 => (ScalarType)23,
        ElementType.F8E4M3 => (ScalarType)24,
        ElementType.U16 => (ScalarType)27,
        ElementType.U32 => (ScalarType)28,
        ElementType.U64 => (ScalarType)29,
        _ => throw new LoraSharpException($"Element type {type} has no tensor type."),
    };

    /// <summary>The type as a file has it.</summary>
    public static ElementType ToElementType(this ScalarType type) => type switch
    {
        ScalarType.Float64 => ElementType.F64,
        ScalarType.Float32 => ElementType.F32,
        ScalarType.Float16 => ElementType.F16,
        ScalarType.BFloat16 => ElementType.BF16,
        ScalarType.Int64 => ElementType.I64,
        ScalarType.Int32 => ElementType.I32,
        ScalarType.Int16 => ElementType.I16,
        ScalarType.Int8 => ElementType.I8,
        ScalarType.Byte => ElementType.U8,
        ScalarType.Bool => ElementType.Bool,
        _ => throw new LoraSharpException($"Tensor type {type} cannot be stored in a safetensors file."),
    };

    /// <summary>
    /// A tensor with the data. Without a change of type, on the CPU, mapped bytes are used in place: the source must
    /// outlive the tensor, and the tensor must never be written to.
    /// </summary>
    /// <param name="data">The bytes.</param>
    /// <param name="dtype">Wanted type of a floating-point tensor; others keep theirs. Null: as stored.</param>
    /// <param name="device">Wanted device.</param>
    public static Tensor ToTensor(TensorData data, ScalarType? dtype, Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        Tensor stored = data.IsMapped
            ? Interop.AtenTensor.FromPointer((nint)data.MappedPointer, data.Info.Shape, data.Info.Type.ToScalarType())
            : FromOwned(data);
        ScalarType target = dtype is { } wanted && stored.is_floating_point() ? wanted : stored.dtype;
        if (stored.dtype == target && device.type == DeviceType.CPU)
        {
            return stored;
        }

        using (stored)
        {
            Tensor converted = stored.to(target, device);
            ReleasePages(data);
            return converted;
        }
    }

    /// <summary>
    /// Gives the memory of mapped bytes back that will hardly be read again; they come back from the file if they are.
    /// Does nothing to an owned buffer.
    /// </summary>
    public static void ReleasePages(TensorData data)
    {
        if (data.IsMapped)
        {
            Interop.MappedPages.Release((nint)data.MappedPointer, data.Info.ByteCount);
        }
    }

    /// <summary>Writes the tensor's bytes in row-major order, whatever its device and strides.</summary>
    public static void CopyTo(Tensor tensor, Stream stream)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        ArgumentNullException.ThrowIfNull(stream);
        using var scope = NewDisposeScope();
        Tensor flat = tensor.detach().cpu().contiguous();
        byte* pointer = (byte*)Interop.AtenTensor.DataPointer(flat);
        long left = flat.NumberOfElements * flat.ElementSize;
        while (left > 0)
        {
            int piece = (int)Math.Min(left, 1 << 30);
            stream.Write(new ReadOnlySpan<byte>(pointer, piece));
            pointer += piece;
            left -= piece;
        }
    }

    private static Tensor FromOwned(TensorData data)
    {
        Tensor tensor = empty([.. data.Info.Shape], data.Info.Type.ToScalarType());
        byte[] owned = data.Owned!;
        owned.AsSpan().CopyTo(new Span<byte>((void*)Interop.AtenTensor.DataPointer(tensor), owned.Length));
        return tensor;
    }
}

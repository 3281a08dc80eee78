using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using TorchSharp;
using static TorchSharp.torch;

namespace LoraSharp.Kernels.Cpu;

/// <summary>How a kernel loads and stores the elements of a tensor: it computes in float32 whatever they are.</summary>
internal unsafe interface IElement
{
    /// <summary>Bytes of an element.</summary>
    static abstract int Size { get; }

    /// <summary>Elements i to i + 15.</summary>
    static abstract Vector512<float> Load(void* data, long i);

    /// <summary>
    /// Elements i to i + 31 in two halves, whichever way they come apart fastest: the same for all data of the type, so that
    /// products of such halves add up to the product of the whole.
    /// </summary>
    static abstract void LoadBoth(void* data, long i, out Vector512<float> first, out Vector512<float> second);

    /// <summary>Rounds and stores elements i to i + 15.</summary>
    static abstract void Store(void* data, long i, Vector512<float> value);

    /// <summary>Rounds and stores what <see cref="LoadBoth"/> takes apart.</summary>
    static abstract void StoreBoth(void* data, long i, Vector512<float> first, Vector512<float> second);

    /// <summary>Rounds and stores elements i to i + 3.</summary>
    static abstract void StoreFour(void* data, long i, Vector128<float> value);

    /// <summary>Element i.</summary>
    static abstract float Get(void* data, long i);

    /// <summary>Rounds and stores element i.</summary>
    static abstract void Set(void* data, long i, float value);
}

/// <summary>float32.</summary>
internal readonly unsafe struct Float32Element : IElement
{
    public static int Size => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(void* data, long i) => Vector512.Load((float*)data + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void LoadBoth(void* data, long i, out Vector512<float> first, out Vector512<float> second)
    {
        first = Vector512.Load((float*)data + i);
        second = Vector512.Load((float*)data + i + 16);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(void* data, long i, Vector512<float> value) => value.Store((float*)data + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreBoth(void* data, long i, Vector512<float> first, Vector512<float> second)
    {
        first.Store((float*)data + i);
        second.Store((float*)data + i + 16);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreFour(void* data, long i, Vector128<float> value) => value.Store((float*)data + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Get(void* data, long i) => ((float*)data)[i];

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Set(void* data, long i, float value) => ((float*)data)[i] = value;
}

/// <summary>bfloat16: the upper half of a float32, rounded to nearest even.</summary>
internal readonly unsafe struct Bfloat16Element : IElement
{
    public static int Size => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(void* data, long i)
    {
        (Vector256<uint> lower, Vector256<uint> upper) = Vector256.Widen(Vector256.Load((ushort*)data + i));
        return (Vector512.Create(lower, upper) << 16).AsSingle();
    }

    // Neighbours share 32 bits: the even ones are the lower half, the odd ones the upper.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void LoadBoth(void* data, long i, out Vector512<float> first, out Vector512<float> second)
    {
        Vector512<uint> pairs = Vector512.Load((uint*)((ushort*)data + i));
        first = (pairs << 16).AsSingle();
        second = (pairs & Vector512.Create(0xFFFF0000u)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(void* data, long i, Vector512<float> value)
    {
        Vector512<uint> rounded = Round(value) >> 16;
        Vector256.Narrow(rounded.GetLower(), rounded.GetUpper()).Store((ushort*)data + i);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreBoth(void* data, long i, Vector512<float> first, Vector512<float> second) =>
        ((Round(first) >> 16) | (Round(second) & Vector512.Create(0xFFFF0000u))).Store((uint*)((ushort*)data + i));

    // The upper halves are the rounded values.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Round(Vector512<float> value)
    {
        Vector512<uint> bits = value.AsUInt32();
        Vector512<uint> rounded = bits + Vector512.Create(0x7FFFu) + ((bits >> 16) & Vector512<uint>.One);

        // A NaN must not be rounded into an infinity.
        return Vector512.ConditionalSelect(Vector512.Equals(value, value).AsUInt32(), rounded, Vector512.Create(0x7FC00000u));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreFour(void* data, long i, Vector128<float> value)
    {
        Vector128<uint> bits = value.AsUInt32();
        Vector128<uint> rounded = (bits + Vector128.Create(0x7FFFu) + ((bits >> 16) & Vector128<uint>.One)) >> 16;
        rounded = Vector128.ConditionalSelect(Vector128.Equals(value, value).AsUInt32(), rounded, Vector128.Create(0x7FC0u));
        *(ulong*)((ushort*)data + i) = Vector128.Narrow(rounded, rounded).AsUInt64().ToScalar();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Get(void* data, long i) => BitConverter.UInt32BitsToSingle((uint)((ushort*)data)[i] << 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Set(void* data, long i, float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        ((ushort*)data)[i] = float.IsNaN(value) ? (ushort)0x7FC0 : (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
}

/// <summary>Which tensors the kernels of this folder take.</summary>
internal static class CpuKernels
{
    /// <summary>Whether a kernel without a gradient may work on a tensor of this kind: on the CPU, float32 or bfloat16, no graph.</summary>
    public static bool Take(Tensor x) => !is_grad_enabled() && x.device_type == DeviceType.CPU && x.dtype is ScalarType.Float32 or ScalarType.BFloat16;
}

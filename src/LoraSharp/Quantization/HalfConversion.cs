using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LoraSharp.Quantization;

/// <summary>Between float32 and the two 16-bit types, rounding to nearest even; vectorised where it matters.</summary>
internal static unsafe class HalfConversion
{
    /// <summary>bfloat16 → float32.</summary>
    public static void BFloat16ToSingle(ushort* source, float* target, long count)
    {
        long i = 0;
        for (; i + 16 <= count; i += 16)
        {
            (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(Vector256.Load(source + i));
            (low << 16).AsSingle().Store(target + i);
            (high << 16).AsSingle().Store(target + i + 8);
        }

        for (; i < count; i++)
        {
            target[i] = BitConverter.UInt32BitsToSingle((uint)source[i] << 16);
        }
    }

    /// <summary>float16 → float32.</summary>
    public static void HalfToSingle(ushort* source, float* target, long count)
    {
        long i = 0;
        for (; i + 16 <= count; i += 16)
        {
            (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(Vector256.Load(source + i));
            Widen(low).Store(target + i);
            Widen(high).Store(target + i + 8);
        }

        for (; i < count; i++)
        {
            target[i] = (float)BitConverter.UInt16BitsToHalf(source[i]);
        }

        // Moved to where float32 has its fields, a half is 2^-112 times its value, subnormals included; an exponent of all
        // ones must stay one.
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector256<float> Widen(Vector256<uint> half)
        {
            Vector256<uint> magnitude = (half & Vector256.Create(0x7FFFu)) << 13;
            Vector256<uint> scaled = (magnitude.AsSingle() * Vector256.Create(5192296858534827628530496329220096f)).AsUInt32();
            Vector256<uint> special = Vector256.GreaterThanOrEqual(magnitude, Vector256.Create(0x7C00u << 13)) & Vector256.Create(0x7F800000u);
            return (scaled | special | ((half & Vector256.Create(0x8000u)) << 16)).AsSingle();
        }
    }

    /// <summary>float32 → bfloat16 of finite values.</summary>
    public static void SingleToBFloat16(float* source, ushort* target, long count)
    {
        long i = 0;
        for (; i + 16 <= count; i += 16)
        {
            Vector256.Narrow(Round(Vector256.Load(source + i)), Round(Vector256.Load(source + i + 8))).Store(target + i);
        }

        for (; i < count; i++)
        {
            target[i] = ToBFloat16(source[i]);
        }

        static Vector256<uint> Round(Vector256<float> values)
        {
            Vector256<uint> bits = values.AsUInt32();
            return (bits + Vector256.Create(0x7FFFu) + ((bits >> 16) & Vector256<uint>.One)) >> 16;
        }
    }

    /// <summary>float32 → bfloat16 of a finite value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ushort ToBFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }

    /// <summary>float32 → float16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ushort ToHalf(float value) => BitConverter.HalfToUInt16Bits((Half)value);
}

using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LoraSharp.Quantization;

/// <summary>
/// Where the kernels find the scales of blocks: fp32, or 8-bit codes of <see cref="DoubleQuantization"/> that are
/// decoded a few at a time, so that they never lie in memory in full.
/// </summary>
internal readonly unsafe struct ScaleTable
{
    private readonly float* _absmax;
    private readonly byte* _codes;
    private readonly float* _map;
    private readonly float* _nested;
    private readonly float _offset;

    /// <summary>Plain scales.</summary>
    public ScaleTable(float* absmax) => _absmax = absmax;

    /// <summary>Doubly quantised scales.</summary>
    public ScaleTable(byte* codes, float* map, float* nested, float offset)
    {
        _codes = codes;
        _map = map;
        _nested = nested;
        _offset = offset;
    }

    /// <summary>The scales of <paramref name="count"/> blocks from <paramref name="first"/> on: in place, or decoded into <paramref name="scratch"/>.</summary>
    public float* Read(long first, int count, float* scratch)
    {
        if (_absmax is not null)
        {
            return _absmax + first;
        }

        for (int i = 0; i < count;)
        {
            long block = (first + i) / DoubleQuantization.BlockSize;
            int run = (int)Math.Min(count - i, ((block + 1) * DoubleQuantization.BlockSize) - (first + i));
            Decode(_codes + first + i, _nested[block], scratch + i, run);
            i += run;
        }

        return scratch;
    }

    private void Decode(byte* codes, float scale, float* target, int count)
    {
        int i = 0;
        if (Avx2.IsSupported)
        {
            Vector256<float> factor = Vector256.Create(scale);
            Vector256<float> offset = Vector256.Create(_offset);
            for (; i + 8 <= count; i += 8)
            {
                Vector256<float> value = Avx2.GatherVector256(_map, Avx2.ConvertToVector256Int32(codes + i), 4);
                ((value * factor) + offset).Store(target + i);
            }
        }

        for (; i < count; i++)
        {
            float product = _map[codes[i]] * scale;
            target[i] = product + _offset;
        }
    }
}

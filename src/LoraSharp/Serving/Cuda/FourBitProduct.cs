using LoraSharp.Quantization;
using LoraSharp.Tensors.Cuda;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Serving.Cuda;

/// <summary>
/// y = x·Wᵀ in bf16 for W in 4 bits (QLoRA, section 3), for decoding: few rows are multiplied straight from the codes
/// (four_bit_product.cu), many with W dequantised into one shared buffer. Weights are the same bf16 numbers either way. Allocates nothing once
/// made, so that it can be captured in a graph; runs on one stream.
/// </summary>
internal sealed class FourBitProduct : IDisposable
{
    /// <summary>Rows up to which the codes are multiplied as they are; from there on dequantising is cheaper (docs/benchmarks/gpu.md).</summary>
    public const int MostRows = 128;

    private const int Threads = 256;
    private readonly CudaModule _kernels;
    private readonly int _multiprocessors;
    private readonly Dictionary<FourBitCodebook, Tensor> _books = [];
    private readonly Tensor _map;
    private readonly Tensor _partial;
    private readonly Tensor _arrived;
    private readonly Tensor? _dense;
    // Of each matrix for 1, 2 ... rows.
    private readonly Dictionary<FourBitMatrix, FewRowsPlan[]> _plans = [];

    /// <summary>Makes the buffers.</summary>
    /// <param name="matrices">All that will be multiplied.</param>
    /// <param name="mostRows">Most rows of x.</param>
    /// <param name="device">A GPU of compute capability 8.0 or later.</param>
    /// <param name="plan">Tries a layout instead of the one that should be fastest; null for that.</param>
    public FourBitProduct(IReadOnlyCollection<FourBitMatrix> matrices, int mostRows, Device device, Func<FourBitMatrix, int, FewRowsPlan>? plan = null)
    {
        using IDisposable none = no_grad();
        using var scope = NewDisposeScope();
        int index = Math.Max(device.index, 0);
        _kernels = CudaModule.Shared("four_bit_product", index);
        CudaDriver.Check(CudaDriver.cuDeviceGetAttribute(out _multiprocessors, 16, index), "read the number of multiprocessors");
        foreach (FourBitCodebook book in matrices.SelectMany(m => m.Parts).Select(p => p.Codebook).Distinct())
        {
            _books[book] = tensor(book.Values.ToArray(), ScalarType.Float32, device).DetachFromDisposeScope();
        }

        _map = tensor(DynamicMap.Signed.Table.ToArray(), ScalarType.Float32, device).DetachFromDisposeScope();
        plan ??= (matrix, rows) => FewRowsPlan.Of(rows, matrix.Outputs, matrix.Columns, matrix.BlockSize, _multiprocessors);
        // Layers are alike: a plan a shape.
        var shapes = new Dictionary<string, FewRowsPlan[]>();
        int few = Math.Min(mostRows, MostRows);
        foreach (FourBitMatrix matrix in matrices)
        {
            string shape = $"{string.Join('+', matrix.Outputs)}x{matrix.Columns}/{matrix.BlockSize}";
            if (!shapes.TryGetValue(shape, out FewRowsPlan[]? plans))
            {
                shapes[shape] = plans = [.. Enumerable.Range(1, few).Select(rows => plan(matrix, rows))];
            }

            _plans[matrix] = plans;
        }

        _partial = zeros([Math.Max(1, shapes.Values.SelectMany(p => p).Max(p => p.PartialSums))], ScalarType.Float32, device).DetachFromDisposeScope();
        _arrived = zeros([shapes.Values.SelectMany(p => p).Max(p => p.Counters)], ScalarType.Int32, device).DetachFromDisposeScope();
        _dense = mostRows <= MostRows ? null : empty([matrices.SelectMany(m => m.Parts).Max(p => p.Rows * p.Columns)], ScalarType.BFloat16, device).DetachFromDisposeScope();
    }

    /// <summary>y = x·Wᵀ on libtorch's current stream.</summary>
    /// <param name="matrix">One of those that this was made for.</param>
    /// <param name="x">[n, k] bf16, rows one after the other.</param>
    /// <param name="y">[n, f] bf16, likewise.</param>
    public void Multiply(FourBitMatrix matrix, Tensor x, Tensor y)
    {
        int n = (int)x.size(0);
        FewRowsPlan[] plans = _plans[matrix];
        if (n <= plans.Length)
        {
            MultiplyCodes(matrix, plans[n - 1], x, y, n);
        }
        else
        {
            MultiplyDense(matrix, x, y, _dense!);
        }
    }

    /// <summary>How n rows are multiplied by a matrix; n at most <see cref="MostRows"/>.</summary>
    public FewRowsPlan Plan(FourBitMatrix matrix, int n) => _plans[matrix][n - 1];

    /// <summary>The same with W dequantised, whatever the number of rows.</summary>
    /// <param name="matrix">Any.</param>
    /// <param name="x">[n, k] bf16.</param>
    /// <param name="y">[n, f] bf16.</param>
    /// <param name="buffer">bf16, room for the largest part.</param>
    public static void MultiplyDense(FourBitMatrix matrix, Tensor x, Tensor y, Tensor buffer)
    {
        using var scope = NewDisposeScope();
        long column = 0;
        foreach (FourBitWeight part in matrix.Parts)
        {
            Tensor weight = buffer.narrow(0, 0, part.Rows * part.Columns).view(part.Rows, part.Columns);
            part.DequantizeInto(weight);
            new AtenCall("aten::mm", "out").Add(x).Add(weight.t()).Add(y.narrow(1, column, part.Rows)).InvokeOut();
            column += part.Rows;
        }
    }

    /// <summary>Frees the buffers.</summary>
    public void Dispose()
    {
        foreach (Tensor book in _books.Values)
        {
            book.Dispose();
        }

        _map.Dispose();
        _partial.Dispose();
        _arrived.Dispose();
        _dense?.Dispose();
    }

    private void MultiplyCodes(FourBitMatrix matrix, FewRowsPlan plan, Tensor x, Tensor y, int n)
    {
        KernelArgument none = (nint)0;
        var arguments = new KernelArgument[26];
        ((KernelArgument[])[x, y, n, (int)matrix.Columns, (int)y.stride(0), int.Log2(matrix.BlockSize), plan.ScaleColumns, _books[matrix.Parts[0].Codebook], _map]).CopyTo(arguments, 0);
        for (int i = 0; i < 3; i++)
        {
            FourBitWeight? part = i < matrix.Parts.Count ? matrix.Parts[i] : null;
            ((KernelArgument[])[part?.Packed ?? none, part?.Absmax ?? none, part?.NestedAbsmax ?? none, part?.NestedOffset ?? 0f, (int)(part?.Rows ?? 0)]).CopyTo(arguments, 9 + (i * 5));
        }

        ((KernelArgument[])[_partial, _arrived]).CopyTo(arguments, 24);
        _kernels.Launch(plan.Kernel, (plan.OutputTiles, plan.Parts, plan.Pieces), Threads, plan.SharedBytes, arguments);
    }
}

using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Fused;

/// <summary>One linear layer inside a <see cref="FoldedMatrix"/>.</summary>
/// <param name="Name">Its name, for messages.</param>
/// <param name="Rows">f, its outputs.</param>
/// <param name="Rank">r of its adapter; 0 without one.</param>
/// <param name="Scaling">alpha/r (or as rsLoRA has it).</param>
internal sealed record FoldedPart(string Name, long Rows, long Rank, double Scaling)
{
    /// <summary>First row in the folded matrix.</summary>
    public long RowOffset { get; init; }

    /// <summary>First spare column.</summary>
    public long RankOffset { get; init; }

    /// <summary>Where A [r, k] starts in the flat parameters; -1 without an adapter.</summary>
    public long OffsetA { get; init; } = -1;

    /// <summary>Where B [f, r] starts in the flat parameters.</summary>
    public long OffsetB { get; init; } = -1;
}

/// <summary>
/// A frozen matrix, or several that read the same input, with the low-rank factors kept in spare rows and columns, so
/// that one matrix product does base and adapter together:
/// <c>y = [x | x·Aᵀ]·[W | s·B]ᵀ</c> and <c>dx = [dy | dy·s·B]·[W ; A]</c>, both exact.
/// </summary>
/// <remarks>
/// The buffer is [f + R, k + R] with R the sum of the parts' ranks, rounded up to 8 so that rows stay aligned. The low-rank
/// part never reads and writes a whole activation of its own.
/// </remarks>
internal sealed class FoldedMatrix : IDisposable
{
    private const int Alignment = 8;
    private readonly Tensor _buffer;
    private readonly Tensor _forward;
    private readonly Tensor _backward;
    private readonly Tensor _factorsA;

    /// <summary>Lays the matrix out; <paramref name="offset"/> is moved past its parameters.</summary>
    /// <param name="parts">Linears in the order of their rows.</param>
    /// <param name="inputs">k.</param>
    /// <param name="offset">Next free place in the flat parameters.</param>
    /// <param name="device">Where the buffer is made.</param>
    /// <param name="shared">A buffer of at least this size that several matrices take turns in (4-bit bases); null for one of its own.</param>
    public FoldedMatrix(IReadOnlyList<FoldedPart> parts, long inputs, ref long offset, Device device, Tensor? shared = null)
    {
        Inputs = inputs;
        Outputs = parts.Sum(p => p.Rows);
        TrueRank = parts.Sum(p => p.Rank);
        Rank = (TrueRank + Alignment - 1) / Alignment * Alignment;
        OffsetA = offset;
        long b = offset + (TrueRank * inputs);
        long row = 0;
        long rank = 0;
        var placed = new List<FoldedPart>();
        foreach (FoldedPart part in parts)
        {
            placed.Add(part with { RowOffset = row, RankOffset = rank, OffsetA = part.Rank > 0 ? offset + (rank * inputs) : -1, OffsetB = part.Rank > 0 ? b : -1 });
            row += part.Rows;
            rank += part.Rank;
            b += part.Rows * part.Rank;
        }

        Parts = placed;
        offset = b;
        long rows = Outputs + Rank;
        long columns = inputs + Rank;
        using var scope = NewDisposeScope();
        _buffer = (shared is null ? zeros([rows, columns], ScalarType.BFloat16, device) : shared.narrow(0, 0, rows * columns).view(rows, columns)).DetachFromDisposeScope();
        _forward = _buffer.narrow(0, 0, Outputs).t().DetachFromDisposeScope();
        _backward = _buffer.narrow(1, 0, inputs).DetachFromDisposeScope();
        // Without an adapter there is no such row; the view is then not used.
        _factorsA = _buffer.narrow(0, Math.Min(Outputs, rows - Math.Max(TrueRank, 1)), Math.Max(TrueRank, 1)).narrow(1, 0, inputs).t().DetachFromDisposeScope();
    }

    /// <summary>k.</summary>
    public long Inputs { get; }

    /// <summary>f of all parts.</summary>
    public long Outputs { get; }

    /// <summary>Spare columns an input or output-gradient buffer needs.</summary>
    public long Rank { get; }

    /// <summary>Sum of the parts' ranks.</summary>
    public long TrueRank { get; }

    /// <summary>Where the stacked A's start in the flat parameters.</summary>
    public long OffsetA { get; }

    /// <summary>The linears.</summary>
    public IReadOnlyList<FoldedPart> Parts { get; }

    /// <summary>The base's place [f, k] in the buffer, to be filled once (or before each use, in a shared buffer).</summary>
    public Tensor BaseView() => _buffer.narrow(0, 0, Outputs).narrow(1, 0, Inputs);

    /// <summary>Zeroes the spare rows and columns: in a shared buffer they hold another matrix's numbers, and a part's columns must be zero in the rows of the others.</summary>
    public void ClearSpare()
    {
        using Tensor columns = _buffer.narrow(1, Inputs, Rank);
        using Tensor rows = _buffer.narrow(0, Outputs, Rank);
        columns.zero_();
        rows.zero_();
    }

    /// <summary>Elements of the buffer.</summary>
    public long BufferElements => (Outputs + Rank) * (Inputs + Rank);

    /// <summary>A row of 8 numbers a factor for the kernels that walk the flat parameters (fused_step.cu, "The table of factors").</summary>
    /// <param name="ratioB">Learning rate of B over A's (LoRA+).</param>
    public IEnumerable<long[]> FactorTable(double ratioB)
    {
        long address = AtenTensor.DataPointer(_buffer);
        long stride = Inputs + Rank;
        foreach (FoldedPart part in Parts.Where(p => p.Rank > 0))
        {
            yield return [part.OffsetA, part.Rank, Inputs, address + (2 * (Outputs + part.RankOffset) * stride), stride, Bits(1), Bits(1), Bits(1)];
            yield return [part.OffsetB, part.Rows, part.Rank, address + (2 * ((part.RowOffset * stride) + Inputs + part.RankOffset)), stride, Bits(part.Scaling), Bits(part.Scaling), Bits(ratioB)];
        }
    }

    private static long Bits(double value) => BitConverter.SingleToInt32Bits((float)value);

    /// <summary>Fills the spare columns of x [n, k + R] with x·Aᵀ.</summary>
    public void Project(Tensor x)
    {
        if (TrueRank > 0)
        {
            using Tensor input = x.narrow(1, 0, Inputs);
            using Tensor spare = x.narrow(1, Inputs, TrueRank);
            Multiply(input, _factorsA, spare);
        }
    }

    /// <summary>y [n, f] from x [n, k + R], whose spare columns are filled here.</summary>
    public void Forward(Tensor x, Tensor y)
    {
        Project(x);
        Multiply(x, _forward, y);
    }

    /// <summary>Fills the spare columns of dy [n, f + R] with dy·s·B.</summary>
    public void ProjectGradient(Tensor dy)
    {
        foreach (FoldedPart part in Parts.Where(p => p.Rank > 0))
        {
            using Tensor gradient = dy.narrow(1, part.RowOffset, part.Rows);
            using Tensor factor = _buffer.narrow(0, part.RowOffset, part.Rows).narrow(1, Inputs + part.RankOffset, part.Rank);
            using Tensor spare = dy.narrow(1, Outputs + part.RankOffset, part.Rank);
            Multiply(gradient, factor, spare);
        }
    }

    /// <summary>dx [n, k] from dy [n, f + R], whose spare columns must be filled.</summary>
    public void Backward(Tensor dy, Tensor dx) => Multiply(dy, _backward, dx);

    /// <summary>Gradients of the factors into flat gradients that begin at <paramref name="start"/> of the flat parameters; B's is still to be multiplied by the scaling.</summary>
    public void Gradients(Tensor x, Tensor dy, Tensor flat, long start)
    {
        using Tensor input = x.narrow(1, 0, Inputs);
        using Tensor projected = x.narrow(1, Inputs, Rank);
        Gradients(input, projected, dy, flat, start);
    }

    /// <summary>The same where x [n, k] and x·Aᵀ [n, R] lie apart.</summary>
    public void Gradients(Tensor x, Tensor projected, Tensor dy, Tensor flat, long start)
    {
        if (TrueRank == 0)
        {
            return;
        }

        using var scope = NewDisposeScope();
        Tensor spare = dy.narrow(1, Outputs, TrueRank);
        Multiply(spare.t(), x, flat.narrow(0, OffsetA - start, TrueRank * Inputs).view(TrueRank, Inputs));
        foreach (FoldedPart part in Parts.Where(p => p.Rank > 0))
        {
            Multiply(dy.narrow(1, part.RowOffset, part.Rows).t(), projected.narrow(1, part.RankOffset, part.Rank), flat.narrow(0, part.OffsetB - start, part.Rows * part.Rank).view(part.Rows, part.Rank));
        }
    }

    /// <summary>c = a·b into a tensor that exists, whatever its row stride.</summary>
    public static void Multiply(Tensor a, Tensor b, Tensor c) => new AtenCall("aten::mm", "out").Add(a).Add(b).Add(c).InvokeOut();

    /// <summary>Frees the buffer.</summary>
    public void Dispose()
    {
        _factorsA.Dispose();
        _backward.Dispose();
        _forward.Dispose();
        _buffer.Dispose();
    }
}

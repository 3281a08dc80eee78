namespace LoraSharp.Serving.Cuda;

/// <summary>How a product of few rows with 4-bit matrices is laid over a GPU (four_bit_product.cu); numbers alone.</summary>
internal sealed record FewRowsPlan
{
    /// <summary>Most parts of k.</summary>
    public const int MostParts = 32;

    /// <summary>Dynamic shared memory that a block may take: what every card from Ampere on has, less the kernel's fixed part.</summary>
    public const int MostSharedBytes = 96 * 1024;

    // k of one warp in one step.
    private const int Chunk = 128;

    /// <summary>Rows of x of a block, in eights: 1, 2, 4 or 8.</summary>
    public required int Tiles { get; init; }

    /// <summary>Warps of a block along the outputs, 32 each: 4 or 8. The others go along k.</summary>
    public required int RowGroups { get; init; }

    /// <summary>Parts of k, a block each.</summary>
    public required int Parts { get; init; }

    /// <summary>Tiles of outputs, of all linears.</summary>
    public required int OutputTiles { get; init; }

    /// <summary>Pieces of x's rows.</summary>
    public required int Pieces { get; init; }

    /// <summary>Width of the table of scales.</summary>
    public required int ScaleColumns { get; init; }

    /// <summary>The kernel.</summary>
    public string Kernel => $"multiply_{Tiles}_{RowGroups}";

    /// <summary>Outputs of a block.</summary>
    public int Outputs => 32 * RowGroups;

    /// <summary>Rows of x of a block.</summary>
    public int Rows => 8 * Tiles;

    /// <summary>Dynamic shared memory of a block: x twice and the scales, or the sums.</summary>
    public int SharedBytes => Math.Max((2 * 8 / RowGroups * Rows * Chunk * 2) + (4 * Outputs * ScaleColumns), 4 * Rows * (Outputs + 4));

    /// <summary>Sums of parts that wait to be added up, float32.</summary>
    public long PartialSums => Parts == 1 ? 0 : (long)Pieces * OutputTiles * Parts * Rows * Outputs;

    /// <summary>Counters of blocks that have ended.</summary>
    public int Counters => Pieces * OutputTiles;

    /// <summary>The layout that should be fastest.</summary>
    /// <param name="n">Rows of x.</param>
    /// <param name="outputs">f of each linear.</param>
    /// <param name="k">Inputs, a multiple of 32.</param>
    /// <param name="blockSize">Weights a scale.</param>
    /// <param name="multiprocessors">Of the device.</param>
    public static FewRowsPlan Of(int n, IReadOnlyList<long> outputs, long k, int blockSize, int multiprocessors) =>
        Candidates(n, outputs, k, blockSize).MinBy(p => p.Time(k, multiprocessors))
            ?? throw new ArgumentException($"No layout for {n} rows, k {k} in blocks of {blockSize}.");

    /// <summary>A layout with given numbers; null where it does not fit.</summary>
    public static FewRowsPlan? With(int n, int rowGroups, int parts, IReadOnlyList<long> outputs, long k, int blockSize)
    {
        int steps = Steps(k, rowGroups);
        if (parts > steps)
        {
            return null;
        }

        int tiles = n <= 8 ? 1 : n <= 16 ? 2 : n <= 32 ? 4 : 8;

        // A row's blocks in a part of k, where the first may begin before it.
        long inputs = Math.Min(k, (long)((steps + parts - 1) / parts) * StepInputs(rowGroups));
        int scales = (int)((inputs + blockSize - 1) / blockSize) + (k % blockSize == 0 && StepInputs(rowGroups) % blockSize == 0 ? 0 : 1);
        var plan = new FewRowsPlan
        {
            Tiles = tiles,
            RowGroups = rowGroups,
            Parts = parts,
            OutputTiles = (int)outputs.Sum(f => (f + (32 * rowGroups) - 1) / (32 * rowGroups)),
            Pieces = (n + (8 * tiles) - 1) / (8 * tiles),
            // Odd, so that rows lie in different banks.
            ScaleColumns = scales | 1,
        };
        return plan.SharedBytes <= MostSharedBytes ? plan : null;
    }

    private static IEnumerable<FewRowsPlan> Candidates(int n, IReadOnlyList<long> outputs, long k, int blockSize) =>
        from rowGroups in (int[])[4, 8]
        from parts in Enumerable.Range(1, Math.Min(MostParts, Steps(k, rowGroups)))
        let plan = With(n, rowGroups, parts, outputs, k, blockSize)
        where plan is not null
        select plan;

    private static int StepInputs(int rowGroups) => Chunk * 8 / rowGroups;

    private static int Steps(long k, int rowGroups) => (int)((k + StepInputs(rowGroups) - 1) / StepInputs(rowGroups));

    // Microseconds, roughly, of an H100: only which layout is the fastest matters. A step of a block reads 16 KB of codes.
    private double Time(long k, int multiprocessors)
    {
        int resident = Tiles == 8 ? 1 : 2;
        int steps = (Steps(k, RowGroups) + Parts - 1) / Parts;
        int blocks = OutputTiles * Parts * Pieces;
        int waves = (blocks + (multiprocessors * resident) - 1) / (multiprocessors * resident);
        int last = blocks - ((waves - 1) * multiprocessors * resident);
        // A multiprocessor's share of the memory's rate, and what a block alone on it needs for waiting.
        const double Shared = 0.72;
        const double Alone = 1.0;
        double full = Math.Max(Alone, Shared * resident);
        double of_last = last <= multiprocessors ? Alone : full;
        double start = 1.5 + (0.5 * (waves - 1));
        double meeting = Parts == 1 ? 0 : 1.5 + (0.05 * Parts);
        double secondLevel = (((double)OutputTiles * Pieces * Rows * k * 2) + (8.0 * PartialSums)) / 5e6;
        return start + (steps * (((waves - 1) * full) + of_last)) + meeting + secondLevel;
    }
}

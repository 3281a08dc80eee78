namespace LoraSharp.Training;

/// <summary>
/// Numbers of a trainer's passes: different for every pass of a run, and known without counting passes, so that a resumed
/// run draws the same random numbers.
/// </summary>
internal static class TrainerPass
{
    private const int MicroBatchBits = 20;

    /// <summary>The number of a micro-batch's pass.</summary>
    /// <param name="step">Optimizer steps completed before.</param>
    /// <param name="microBatch">Place in its step, from 0.</param>
    public static long Number(long step, int microBatch) => (step << MicroBatchBits) + microBatch;

    /// <summary>The step of a pass.</summary>
    public static long Step(long pass) => pass >> MicroBatchBits;

    /// <summary>The place of a pass in its step.</summary>
    public static long MicroBatch(long pass) => pass & ((1L << MicroBatchBits) - 1);
}

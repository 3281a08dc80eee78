namespace LoraSharp.Training.Loss;

/// <summary>
/// Bytes that activations take while a micro-batch is trained on, from the sizes of a dense decoder's linear layers. Found by
/// counting what autograd keeps, and checked against measured peaks (docs/benchmarks/memory.md).
/// </summary>
public static class ActivationMemory
{
    // Vectors of the hidden size a block, besides its linear layers' own: norms, residuals, attention's output.
    private const double VectorsOfBlock = 7;

    /// <summary>Bytes kept for a token when nothing is computed again.</summary>
    /// <param name="linears">Output and input features of every linear layer of the blocks.</param>
    /// <param name="layers">Blocks.</param>
    /// <param name="hidden">d.</param>
    /// <param name="computeBytes">Bytes of the type the base computes in: 4 or 2.</param>
    /// <param name="isAdapted">Whether the layers carry adapters: those train in float32, and where the base does not, their inputs are kept a second time.</param>
    /// <remarks>Of each layer its output, and its input half: q, k and v share theirs, gate and up too.</remarks>
    public static double BytesPerToken(IEnumerable<(long Out, long In)> linears, int layers, long hidden, int computeBytes, bool isAdapted)
    {
        ArgumentNullException.ThrowIfNull(linears);
        double values = VectorsOfBlock * layers * hidden;
        double inputs = 0;
        foreach ((long outputs, long of) in linears)
        {
            values += outputs + (0.5 * of);
            inputs += of;
        }

        return (values * computeBytes) + (isAdapted && computeBytes < sizeof(float) ? inputs * sizeof(float) : 0);
    }

    /// <summary>Bytes of a micro-batch when each block's input is kept and one block at a time is run again.</summary>
    /// <param name="bytesPerToken">Of <see cref="BytesPerToken"/>.</param>
    /// <param name="layers">Blocks.</param>
    /// <param name="hidden">d.</param>
    /// <param name="computeBytes">Bytes of the compute type.</param>
    /// <param name="tokens">Tokens of the micro-batch, padding included.</param>
    public static double Recomputed(double bytesPerToken, int layers, long hidden, int computeBytes, long tokens) =>
        tokens * ((double)layers * hidden * computeBytes + (bytesPerToken / Math.Max(1, layers)));
}

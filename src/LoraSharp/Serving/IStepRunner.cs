using LoraSharp.Serving.Scheduling;
using static TorchSharp.torch;

namespace LoraSharp.Serving;

/// <summary>
/// The model's call of a step, the one place of the engine that computes: it may be replaced (by captured graphs on a
/// GPU) as long as it fills the same blocks and gives the same logits.
/// </summary>
internal interface IStepRunner : IDisposable
{
    /// <summary>
    /// Computes keys, values and logits of the chunks. All of them may go through one pass: same parameters of the whole
    /// model, each with the adapter of its sequence.
    /// </summary>
    /// <param name="chunks">At least one; their sequences hold blocks for all their tokens.</param>
    /// <returns>[m, v]: the last <see cref="StepChunk.LogitRows"/> rows of each chunk, in order; on any device, of any float type, for the caller to dispose. Null when no row is wanted.</returns>
    Tensor? Run(IReadOnlyList<StepChunk> chunks);
}

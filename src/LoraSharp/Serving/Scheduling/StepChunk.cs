namespace LoraSharp.Serving.Scheduling;

/// <summary>What one sequence has computed in a step: a piece of its prompt, or its last token.</summary>
/// <param name="Sequence">Whose.</param>
/// <param name="Start">First token.</param>
/// <param name="Count">How many, at least one.</param>
internal readonly record struct StepChunk(RunningSequence Sequence, int Start, int Count)
{
    /// <summary>Whether the next token can be chosen after it.</summary>
    public bool ReachesEnd => Start + Count == Sequence.Tokens.Count;

    /// <summary>How many of its last rows need logits.</summary>
    public int LogitRows => Sequence.NeedsPromptScores(Start) ? Count : ReachesEnd ? 1 : 0;
}

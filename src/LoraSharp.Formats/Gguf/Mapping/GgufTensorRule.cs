namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>How a tensor in a GGUF file differs from the Hugging Face one.</summary>
internal enum GgufLayout
{
    /// <summary>Not at all.</summary>
    Same,

    /// <summary>Rows of each query head interleaved: llama.cpp rotates neighbouring pairs, Hugging Face the two halves.</summary>
    RotaryQuery,

    /// <summary>As <see cref="RotaryQuery"/> with the number of key/value heads.</summary>
    RotaryKey,

    /// <summary>A norm that multiplies by 1 + w: the file holds 1 + w.</summary>
    PlusOne,

    /// <summary>GPT-2's Conv1D: [k, f] in Hugging Face, [f, k] in the file.</summary>
    Transposed,

    /// <summary>One matrix an expert in Hugging Face ({e} in the name), stacked [e, f, k] in the file.</summary>
    Experts,

    /// <summary>Granite MoE: gate above up for each expert in Hugging Face, two stacks in the file.</summary>
    GateUpExperts,

    /// <summary>GPT-NeoX: [h, 3, e, k] in Hugging Face, all q, all k, all v in the file.</summary>
    NeoxQkv,

    /// <summary>Falcon: [hk, h/hk + 2, e, k] in Hugging Face, all q, all k, all v in the file.</summary>
    FalconQkv,

    /// <summary>In the file only; nothing in Hugging Face answers to it.</summary>
    Ignored,
}

/// <summary>One line of an architecture's table: both names without <c>.weight</c> / <c>.bias</c>.</summary>
/// <param name="Gguf">Name in the file; {i} is the layer.</param>
/// <param name="HuggingFace">Name in the state dict; {i} is the layer, {e} the expert.</param>
/// <param name="Layout">How they differ.</param>
/// <param name="Second">A second tensor of the file that takes part, if there is one.</param>
internal sealed record GgufTensorRule(string Gguf, string HuggingFace, GgufLayout Layout = GgufLayout.Same, string? Second = null);

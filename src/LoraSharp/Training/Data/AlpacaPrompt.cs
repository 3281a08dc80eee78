namespace LoraSharp.Training.Data;

/// <summary>The prompt of Stanford Alpaca (Taori et al. 2023, train.py: PROMPT_DICT), which most instruction sets were trained with.</summary>
public static class AlpacaPrompt
{
    /// <summary>The prompt up to where the answer begins.</summary>
    /// <param name="instruction">What to do.</param>
    /// <param name="input">On what; empty for the form without input.</param>
    public static string Format(string instruction, string input = "") => input.Length > 0
        ? "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n"
            + $"### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        : "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
            + $"### Instruction:\n{instruction}\n\n### Response:";
}

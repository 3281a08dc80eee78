using System.ComponentModel;
using System.ComponentModel.DataAnnotations;

namespace LoraSharp.Recipes;

/// <summary>What is learned from.</summary>
public sealed record DataRecipe
{
    /// <summary>Training rows.</summary>
    [Description("Training data: a file, a folder, or a list of them, each also as { path, weight, format, columns, max_samples }.")]
    public IReadOnlyList<DataSourceRecipe> Train { get; init; } = [];

    /// <summary>Validation rows.</summary>
    [Description("A share of the training rows (0 < share < 1), a number of them, or a file of its own; 0 for none.")]
    public string Validation { get; init; } = "0";

    /// <summary>Format.</summary>
    [Description("auto, chat, alpaca, prompt_completion, text, preference, kto, tokenized.")]
    [AllowedValues("auto", "chat", "alpaca", "prompt_completion", "text", "preference", "kto", "tokenized")]
    public string Format { get; init; } = "auto";

    /// <summary>Window.</summary>
    [Description("Longest row in tokens; longer ones are cut (see long_rows), counted and reported.")]
    [Range(2, 1 << 24)]
    public int MaxLength { get; init; } = 1024;

    /// <summary>Packing.</summary>
    [Description("Put several rows into one window, each attending to itself only.")]
    public bool Packing { get; init; }

    /// <summary>Shuffle.</summary>
    [Description("Shuffle each epoch by the seed.")]
    public bool Shuffle { get; init; } = true;

    /// <summary>Length groups.</summary>
    [Description("Put rows of similar length into one batch where packing is off.")]
    public bool GroupByLength { get; init; }

    /// <summary>Loss mask.</summary>
    [Description("What the loss is taken on: completions (the last answer), assistant (every answer of a chat), all.")]
    [AllowedValues("completions", "assistant", "all")]
    public string TrainOn { get; init; } = "assistant";

    /// <summary>Columns.</summary>
    [Description("Renames columns: { prompt: question, completion: answer }.")]
    public IReadOnlyDictionary<string, string> Columns { get; init; } = new Dictionary<string, string>();

    /// <summary>Template.</summary>
    [Description("Prompt made of the row's fields in braces, e.g. \"Q: {question}\\nA:\".")]
    public string? PromptTemplate { get; init; }

    /// <summary>Completion template.</summary>
    [Description("Completion made of the row's fields in braces, e.g. \" {answer}\".")]
    public string? CompletionTemplate { get; init; }

    /// <summary>Prompt style.</summary>
    [Description("How prompts and instructions become text: plain (instructions in the words of Stanford Alpaca) or chat (the model's chat template).")]
    [AllowedValues("plain", "chat")]
    public string PromptStyle { get; init; } = "plain";

    /// <summary>Long rows.</summary>
    [Description("What happens to rows longer than max_length: cut (at the end), drop, split (into further rows, for running text).")]
    [AllowedValues("cut", "drop", "split")]
    public string LongRows { get; init; } = "cut";

    /// <summary>Threads.</summary>
    [Description("Threads that tokenize; the result does not depend on it.")]
    [Range(1, 1024)]
    public int Workers { get; init; } = 1;

    /// <summary>Overlap.</summary>
    [Description("Accept a validation set whose rows are all in the training set.")]
    public bool AllowOverlap { get; init; }

    /// <summary>Limit.</summary>
    [Description("Use at most this many training rows; 0 for all.")]
    [Range(0, int.MaxValue)]
    public int MaxSamples { get; init; }
}

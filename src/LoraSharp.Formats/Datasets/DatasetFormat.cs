namespace LoraSharp.Formats.Datasets;

/// <summary>What the columns of a data set mean.</summary>
public enum DatasetFormat
{
    /// <summary>Found by looking at the first row.</summary>
    Auto,

    /// <summary>One column of running text.</summary>
    Text,

    /// <summary>A prompt and the completion to learn.</summary>
    PromptCompletion,

    /// <summary>Instruction, optional input, output (Taori et al. 2023), optional system and history.</summary>
    Alpaca,

    /// <summary>A list of messages: role/content, or from/value as ShareGPT writes them.</summary>
    Chat,

    /// <summary>A prompt with a chosen and a rejected completion.</summary>
    Preference,

    /// <summary>A prompt, a completion and whether it is desirable (Ethayarajh et al. 2024).</summary>
    Kto,

    /// <summary>Token ids, with labels and attention mask if given.</summary>
    Tokenized,
}

/// <summary>The names of <see cref="DatasetFormat"/> in recipes and messages.</summary>
public static class DatasetFormats
{
    /// <summary>All names, in the order of the enum.</summary>
    public static IReadOnlyList<string> Names { get; } = ["auto", "text", "prompt_completion", "alpaca", "chat", "preference", "kto", "tokenized"];

    /// <summary>The name of a format.</summary>
    public static string Name(this DatasetFormat format) => Names[(int)format];

    /// <summary>The format of a name.</summary>
    /// <exception cref="LoraSharpException">There is none of that name; the message lists those there are.</exception>
    public static DatasetFormat Parse(string name)
    {
        string wanted = name.Trim().ToLowerInvariant().Replace('-', '_') switch
        {
            "prompt" or "completion" or "instruction_completion" => "prompt_completion",
            "messages" or "conversations" or "sharegpt" or "openai" => "chat",
            "dpo" => "preference",
            var other => other,
        };
        int index = Names.ToList().IndexOf(wanted);
        return index >= 0 ? (DatasetFormat)index : throw new LoraSharpException($"data format '{name}' is not known. Expected one of {string.Join(", ", Names)}.");
    }
}

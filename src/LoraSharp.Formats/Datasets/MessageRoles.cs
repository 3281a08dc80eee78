namespace LoraSharp.Formats.Datasets;

/// <summary>The roles of messages that chat templates know.</summary>
public static class MessageRoles
{
    // Beyond mistyping: what other formats and models call the same speaker.
    private static readonly Dictionary<string, string> OtherNames = new(StringComparer.OrdinalIgnoreCase)
    {
        ["human"] = "user",
        ["gpt"] = "assistant",
        ["chatgpt"] = "assistant",
        ["bot"] = "assistant",
        ["ai"] = "assistant",
        ["model"] = "assistant",
    };

    /// <summary>OpenAI's, and those of published templates for what tools say.</summary>
    public static IReadOnlyList<string> Known { get; } = ["system", "developer", "user", "assistant", "tool", "function", "ipython"];

    /// <summary>
    /// The role that was meant by one that no template knows: mistyped by a letter or two, in capitals, or another name for it. Null
    /// for a known role, and for one that is like none: a template of its own may know that.
    /// </summary>
    public static string? Meant(string role)
    {
        ArgumentNullException.ThrowIfNull(role);
        return Known.Contains(role) ? null
            : OtherNames.TryGetValue(role, out string? meant) ? meant
            : NearestWord.Find(role.Trim().ToLowerInvariant(), Known, most: 2);
    }
}

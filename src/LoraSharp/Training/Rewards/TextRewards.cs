using System.Text.RegularExpressions;
using LoraSharp.Formats;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Training.Rewards;

/// <summary>Rewards over texts. Those of a recipe are 1 or 0.</summary>
public static class TextRewards
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(1);

    /// <summary>A reward over texts as one over token ids.</summary>
    public static CompletionReward Decoded(TextReward reward, Tokenizer tokenizer)
    {
        ArgumentNullException.ThrowIfNull(reward);
        ArgumentNullException.ThrowIfNull(tokenizer);
        string Text(int[] ids) => tokenizer.Decode(ids, skipSpecialTokens: true);
        return (prompt, reference, completion) => reward(Text(prompt), Text(reference), Text(completion));
    }

    /// <summary>1 when the completion is the reference, spaces around them aside.</summary>
    public static double ExactMatch(string reference, string completion)
    {
        ArgumentNullException.ThrowIfNull(reference);
        ArgumentNullException.ThrowIfNull(completion);
        return completion.Trim() == reference.Trim() ? 1 : 0;
    }

    /// <summary>
    /// A check by a pattern. With a group named <c>answer</c> the last match's group must be the same in completion and
    /// reference (a number after "####"); without one the completion only has to match.
    /// </summary>
    /// <exception cref="LoraSharpException">The pattern is no regular expression.</exception>
    public static TextReward ByPattern(string pattern)
    {
        Regex regex;
        try
        {
            regex = new Regex(pattern, RegexOptions.CultureInvariant, Patience);
        }
        catch (ArgumentException error)
        {
            throw new LoraSharpException($"reward pattern '{pattern}': is no regular expression. {error.Message}", error);
        }

        bool compares = regex.GetGroupNames().Contains("answer");
        return (_, reference, completion) =>
        {
            Match? found = regex.Matches(completion).LastOrDefault();
            if (found is null || !compares)
            {
                return found is null ? 0 : 1;
            }

            Match? wanted = regex.Matches(reference).LastOrDefault();
            return wanted is not null && wanted.Groups["answer"].Value.Trim() == found.Groups["answer"].Value.Trim() ? 1 : 0;
        };
    }
}

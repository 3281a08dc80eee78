namespace LoraSharp.Formats;

/// <summary>What a mistyped key, command, option or role was probably meant to be.</summary>
public static class NearestWord
{
    /// <summary>The known word that is nearest by Levenshtein distance; null when none is near enough to be meant.</summary>
    /// <param name="word">What was written.</param>
    /// <param name="known">What could have been meant.</param>
    /// <param name="most">Largest distance; null: half of the letters, or two.</param>
    public static string? Find(string word, IEnumerable<string> known, int? most = null)
    {
        ArgumentNullException.ThrowIfNull(word);
        return known.Select(candidate => (Word: candidate, Distance: Distance(candidate, word)))
            .Where(candidate => candidate.Distance <= (most ?? Math.Max(2, word.Length / 2)))
            .OrderBy(candidate => candidate.Distance)
            .FirstOrDefault().Word;
    }

    private static int Distance(string a, string b)
    {
        int[] row = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                int above = row[j];
                row[j] = Math.Min(Math.Min(row[j] + 1, row[j - 1] + 1), diagonal + (a[i - 1] == b[j - 1] ? 0 : 1));
                diagonal = above;
            }
        }

        return row[b.Length];
    }
}

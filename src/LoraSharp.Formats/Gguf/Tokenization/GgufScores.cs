namespace LoraSharp.Formats.Gguf.Tokenization;

/// <summary>
/// SentencePiece's BPE joins, of all neighbouring pieces, the pair whose union has the highest score; BPE with a list of
/// merges joins the pair that stands first. With merges sorted by the score of their result the two are the same.
/// </summary>
internal static class GgufScores
{
    // Cutting a piece everywhere costs its length squared; real ones have at most some hundred characters.
    private const int LongestPiece = 512;

    /// <summary>Every way to cut a piece into two others, pieces with the highest score first.</summary>
    public static IEnumerable<(string Left, string Right)> ToMerges(string[] tokens, float[] scores, GgufTokenType[] types)
    {
        var ids = new Dictionary<string, int>(StringComparer.Ordinal);
        for (int id = 0; id < tokens.Length; id++)
        {
            if (types[id] is GgufTokenType.Normal or GgufTokenType.UserDefined)
            {
                ids.TryAdd(tokens[id], id);
            }
        }

        Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> lookup = ids.GetAlternateLookup<ReadOnlySpan<char>>();
        var cuts = new List<(int Left, int Right)>();
        foreach (int id in ids.Values.OrderByDescending(i => scores[i]).ThenBy(i => i))
        {
            string token = tokens[id];
            cuts.Clear();
            for (int at = 1; at < token.Length; at++)
            {
                if (token.Length <= LongestPiece && !char.IsLowSurrogate(token[at]) && lookup.TryGetValue(token.AsSpan(0, at), out int left) && lookup.TryGetValue(token.AsSpan(at), out int right))
                {
                    cuts.Add((left, right));
                }
            }

            foreach ((int left, int right) in cuts.Order())
            {
                yield return (tokens[left], tokens[right]);
            }
        }
    }

    /// <summary>Scores that order pieces as the merges do: minus the place of the first merge that makes one; pieces that none makes come last.</summary>
    public static float[] FromMerges(IReadOnlyDictionary<string, int> ids, IEnumerable<(string Left, string Right)> merges, int count)
    {
        float[] scores = new float[count];
        Array.Fill(scores, float.NaN);
        int place = 0;
        foreach ((string left, string right) in merges)
        {
            if (ids.TryGetValue(left + right, out int id) && float.IsNaN(scores[id]))
            {
                scores[id] = -place;
            }

            place++;
        }

        for (int id = 0; id < count; id++)
        {
            scores[id] = float.IsNaN(scores[id]) ? -(place + id) : scores[id];
        }

        return scores;
    }
}

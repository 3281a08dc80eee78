namespace LoraSharp.Training.Data;

/// <summary>Lays examples out as a micro-batch: padded at the right, several in a row where packed.</summary>
public static class MicroBatchBuilder
{
    /// <summary>One example a row.</summary>
    public static MicroBatch Build(IReadOnlyList<TrainingExample> rows, int padTokenId = 0) => Build([.. rows.Select(r => (IReadOnlyList<TrainingExample>)[r])], padTokenId);

    /// <summary>One or several examples a row; each is a sequence of its own, with positions from 0.</summary>
    /// <param name="rows">Examples of each row.</param>
    /// <param name="padTokenId">Id that padding holds.</param>
    /// <param name="length">s; 0 for the longest row's.</param>
    /// <param name="multipleOf">s is rounded up to a multiple of this.</param>
    public static MicroBatch Build(IReadOnlyList<IReadOnlyList<TrainingExample>> rows, int padTokenId = 0, int length = 0, int multipleOf = 1)
    {
        int longest = rows.Max(row => row.Sum(e => e.InputIds.Length));
        int s = Math.Max(longest, length);
        s = (s + multipleOf - 1) / multipleOf * multipleOf;
        int b = rows.Count;
        long[] ids = new long[b * s];
        long[] labels = new long[b * s];
        long[] positions = new long[b * s];
        int[] sequences = new int[b * s];
        Array.Fill(ids, padTokenId);
        Array.Fill(labels, TrainingExample.Ignored);
        float[]? weights = rows.Any(row => row.Any(e => e.Weights is not null)) ? Enumerable.Repeat(1f, b * s).ToArray() : null;
        List<string> origins = [];
        for (int row = 0; row < b; row++)
        {
            int at = row * s;
            int sequence = 0;
            foreach (TrainingExample example in rows[row])
            {
                sequence++;
                origins.Add(example.Origin);
                for (int i = 0; i < example.InputIds.Length; i++, at++)
                {
                    ids[at] = example.InputIds[i];
                    // Nothing of its own sequence predicts the first token.
                    labels[at] = i == 0 ? TrainingExample.Ignored : example.Labels[i];
                    positions[at] = i;
                    sequences[at] = example.Attended is { } attended && !attended[i] ? 0 : sequence;
                    if (weights is not null)
                    {
                        weights[at] = example.Weights?[i] ?? 1;
                    }
                }
            }
        }

        return new MicroBatch { Rows = b, Length = s, InputIds = ids, Labels = labels, Positions = positions, Sequences = sequences, Weights = weights, Origins = origins };
    }
}

using static TorchSharp.torch;

namespace LoraSharp.Serving.Cuda;

/// <summary>What computes the rows of a step; <see cref="FusedDecoder"/>, or a stand-in where there is no GPU.</summary>
internal interface IRowDecoder : IDisposable
{
    /// <summary>Most tokens of a step.</summary>
    int MaxTokens { get; }

    /// <summary>Most sequences in a step, and most rows that give a next token.</summary>
    int MaxSequences { get; }

    /// <summary>Largest sum of ranks that an adapter may have in one matrix.</summary>
    int MaxRank { get; }

    /// <summary>Adapters it holds.</summary>
    int Slots { get; }

    /// <summary>Copies an adapter into a slot, in the place of what was there.</summary>
    /// <param name="slot">Which.</param>
    /// <param name="find">Gives the pair of a layer's linear, or null where it is not adapted.</param>
    void LoadAdapter(int slot, Func<int, string, LowRankPair?> find);

    /// <summary>Says in which pages the sequences' tokens lie.</summary>
    /// <param name="pages">[sequences, width], filled up with any page.</param>
    /// <param name="width">Pages of a row.</param>
    void SetPages(int[] pages, int width);

    /// <summary>Runs rows once.</summary>
    /// <param name="rows">In the order of their sequences' tokens.</param>
    /// <param name="choosing">Indices of the rows whose logits are wanted, ascending.</param>
    /// <param name="temperatures">Of each choosing row; empty for 0 throughout.</param>
    /// <param name="seeds">Of each choosing row; empty for 0 throughout.</param>
    void Run(ReadOnlySpan<DecoderRow> rows, ReadOnlySpan<int> choosing, ReadOnlySpan<float> temperatures = default, ReadOnlySpan<uint> seeds = default);

    /// <summary>Logits [count, v] of the last run's choosing rows; good until the next run.</summary>
    Tensor Logits(int count);
}

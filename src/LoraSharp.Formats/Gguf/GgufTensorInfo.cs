namespace LoraSharp.Formats.Gguf;

/// <summary>What a GGUF file says about one tensor.</summary>
/// <param name="Name">Its name in the file, e.g. <c>blk.0.attn_q.weight</c>.</param>
/// <param name="Type">How its weights are stored.</param>
/// <param name="Shape">Sizes, outermost first (the file has them the other way round); at most four.</param>
/// <param name="Offset">Where its bytes begin, counted from the start of the data section.</param>
/// <param name="ByteCount">How many they are.</param>
public sealed record GgufTensorInfo(string Name, GgufTensorType Type, IReadOnlyList<long> Shape, long Offset, long ByteCount)
{
    /// <summary>Number of weights.</summary>
    public long Count => Shape.Aggregate(1L, (product, size) => checked(product * size));

    /// <summary>Size of the innermost dimension; blocks never cross it.</summary>
    public long RowSize => Shape.Count == 0 ? 1 : Shape[^1];
}

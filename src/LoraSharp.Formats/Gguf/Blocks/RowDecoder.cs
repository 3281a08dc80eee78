namespace LoraSharp.Formats.Gguf.Blocks;

/// <summary>Decodes whole blocks that lie one after the other.</summary>
/// <param name="source">The blocks.</param>
/// <param name="output">As many weights as they hold.</param>
internal delegate void RowDecoder(ReadOnlySpan<byte> source, Span<float> output);

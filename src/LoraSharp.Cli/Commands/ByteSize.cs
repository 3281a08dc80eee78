using System.Globalization;
using LoraSharp.Formats;

namespace LoraSharp.Cli.Commands;

/// <summary>Sizes as people write them: <c>512MB</c>, <c>2GB</c>, <c>1.5GiB</c>, or a number of bytes. Units are of 1024.</summary>
internal static class ByteSize
{
    private static readonly (string Unit, long Bytes)[] Units = [("TB", 1L << 40), ("GB", 1L << 30), ("MB", 1L << 20), ("KB", 1L << 10), ("B", 1)];

    public static long Parse(string text, string option)
    {
        string plain = text.Trim().ToUpperInvariant().Replace("IB", "B", StringComparison.Ordinal);
        (string unit, long bytes) = Units.FirstOrDefault(u => plain.EndsWith(u.Unit, StringComparison.Ordinal), ("", 1));
        return double.TryParse(plain.AsSpan(0, plain.Length - unit.Length), NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double number) && number * bytes is >= 1 and < long.MaxValue
            ? (long)(number * bytes)
            : throw new LoraSharpException($"{option} '{text}': expected a size such as 512MB, 2GB or a number of bytes.");
    }
}

using System.Buffers;
using System.Text;

namespace LoraSharp.Formats.Tokenization;

/// <summary>
/// The printable alphabet of byte-level BPE (GPT-2, "Language Models are Unsupervised Multitask Learners", section 2.2):
/// every byte is one character, so that a vocabulary of text can hold any bytes. Printable Latin-1 stays itself, the
/// other bytes follow from U+0100 on.
/// </summary>
internal static class ByteLevelAlphabet
{
    private static readonly char[] Forward = BuildForward();
    private static readonly short[] Backward = BuildBackward();

    /// <summary>The character of a byte.</summary>
    public static char ToChar(byte value) => Forward[value];

    /// <summary>The byte of a character, or -1 when it is not of the alphabet.</summary>
    public static int ToByte(char value) => value < Backward.Length ? Backward[value] : -1;

    /// <summary>Writes the bytes of a token, or its UTF-8 when some character is not of the alphabet.</summary>
    public static void AppendBytes(string token, ArrayBufferWriter<byte> output)
    {
        Span<byte> span = output.GetSpan(Math.Max(1, token.Length));
        for (int i = 0; i < token.Length; i++)
        {
            int value = ToByte(token[i]);
            if (value < 0)
            {
                Encoding.UTF8.GetBytes(token, output);
                return;
            }

            span[i] = (byte)value;
        }

        output.Advance(token.Length);
    }

    private static char[] BuildForward()
    {
        char[] table = new char[256];
        int next = 256;
        for (int value = 0; value < 256; value++)
        {
            bool printable = value is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF);
            table[value] = printable ? (char)value : (char)next++;
        }

        return table;
    }

    private static short[] BuildBackward()
    {
        short[] table = new short[512];
        Array.Fill(table, (short)-1);
        for (int value = 0; value < 256; value++)
        {
            table[Forward[value]] = (short)value;
        }

        return table;
    }
}

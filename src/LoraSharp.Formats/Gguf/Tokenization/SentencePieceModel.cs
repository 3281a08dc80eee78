using System.Buffers.Binary;
using System.Text;

namespace LoraSharp.Formats.Gguf.Tokenization;

/// <summary>
/// The pieces of a tokenizer.model (sentencepiece_model.proto): field 1 repeats {1 piece, 2 score, 3 type}, field 2 holds
/// the trainer's {3 model_type}, field 3 the normaliser's {3 add_dummy_prefix}. Types have GGUF's numbers.
/// </summary>
internal sealed class SentencePieceModel
{
    private const int Bpe = 2;

    public List<(string Text, float Score, GgufTokenType Type)> Pieces { get; } = [];

    public bool AddsPrefix { get; private set; } = true;

    public bool IsBpe { get; private set; }

    public bool RemovesExtraSpaces { get; private set; } = true;

    /// <summary>The normaliser's compiled map of characters; empty when text is taken as it is.</summary>
    public byte[] CharactersMap { get; private set; } = [];

    public static SentencePieceModel Parse(string source, byte[] bytes)
    {
        var model = new SentencePieceModel();
        try
        {
            var reader = new Wire(bytes);
            while (reader.Next(out int field, out ReadOnlySpan<byte> content, out ulong _))
            {
                switch (field)
                {
                    case 1:
                        model.Pieces.Add(Piece(content));
                        break;
                    case 2:
                        model.IsBpe = Number(content, 3, 1) == Bpe;
                        break;
                    case 3:
                        model.AddsPrefix = Number(content, 3, 1) != 0;
                        model.RemovesExtraSpaces = Number(content, 4, 1) != 0;
                        model.CharactersMap = Bytes(content, 2);
                        break;
                    default:
                        break;
                }
            }
        }
        catch (Exception error) when (error is ArgumentOutOfRangeException or IndexOutOfRangeException or FormatException or OverflowException)
        {
            throw new MalformedFileException(source, "tokenizer.model is not a SentencePiece model.", error);
        }

        return model.Pieces.Count > 0 ? model : throw new MalformedFileException(source, "tokenizer.model holds no pieces.");
    }

    private static (string, float, GgufTokenType) Piece(ReadOnlySpan<byte> content)
    {
        string text = string.Empty;
        float score = 0;
        var type = GgufTokenType.Normal;
        var reader = new Wire(content);
        while (reader.Next(out int field, out ReadOnlySpan<byte> bytes, out ulong number))
        {
            switch (field)
            {
                case 1:
                    text = Encoding.UTF8.GetString(bytes);
                    break;
                case 2:
                    score = BitConverter.UInt32BitsToSingle((uint)number);
                    break;
                case 3:
                    type = (GgufTokenType)number;
                    break;
                default:
                    break;
            }
        }

        return (text, score, type);
    }

    private static ulong Number(ReadOnlySpan<byte> content, int wanted, ulong otherwise)
    {
        var reader = new Wire(content);
        while (reader.Next(out int field, out _, out ulong number))
        {
            if (field == wanted)
            {
                return number;
            }
        }

        return otherwise;
    }

    private static byte[] Bytes(ReadOnlySpan<byte> content, int wanted)
    {
        var reader = new Wire(content);
        while (reader.Next(out int field, out ReadOnlySpan<byte> bytes, out _))
        {
            if (field == wanted)
            {
                return bytes.ToArray();
            }
        }

        return [];
    }

    /// <summary>Protocol buffers' wire format, as much as is needed.</summary>
    private ref struct Wire(ReadOnlySpan<byte> bytes)
    {
        private ReadOnlySpan<byte> _rest = bytes;

        public bool Next(out int field, out ReadOnlySpan<byte> content, out ulong number)
        {
            field = 0;
            content = default;
            number = 0;
            if (_rest.IsEmpty)
            {
                return false;
            }

            ulong tag = VarInt();
            field = (int)(tag >> 3);
            switch (tag & 7)
            {
                case 0:
                    number = VarInt();
                    break;
                case 1:
                    number = BinaryPrimitives.ReadUInt64LittleEndian(_rest);
                    _rest = _rest[8..];
                    break;
                case 2:
                    int length = checked((int)VarInt());
                    content = _rest[..length];
                    _rest = _rest[length..];
                    break;
                case 5:
                    number = BinaryPrimitives.ReadUInt32LittleEndian(_rest);
                    _rest = _rest[4..];
                    break;
                default:
                    throw new FormatException();
            }

            return true;
        }

        private ulong VarInt()
        {
            ulong value = 0;
            for (int shift = 0; shift < 64; shift += 7)
            {
                byte next = _rest[0];
                _rest = _rest[1..];
                value |= (ulong)(next & 127) << shift;
                if (next < 128)
                {
                    return value;
                }
            }

            throw new FormatException();
        }
    }
}

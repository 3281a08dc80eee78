using System.Buffers.Binary;

namespace LoraSharp.Formats.Datasets;

/// <summary>
/// Walks a Parquet file's footer (Thrift's compact protocol) before the library sees it: in a damaged one the library
/// can loop without end. Looked at are the structure (sizes within the footer, known types, bounded depth) and the
/// schema's tree (parquet.thrift: FileMetaData field 2, SchemaElement fields 1 type and 5 num_children).
/// </summary>
internal ref struct ParquetFooter
{
    private const int Deepest = 32;
    private const int List = 9;
    private const int Structure = 12;
    private readonly ReadOnlySpan<byte> _bytes;
    private int _at;

    private ParquetFooter(ReadOnlySpan<byte> bytes) => _bytes = bytes;

    /// <summary>Checks the footer of a file and sets the stream back to its start.</summary>
    /// <exception cref="FormatException">The file does not end in a well-formed footer.</exception>
    public static void Check(Stream file)
    {
        Span<byte> tail = stackalloc byte[8];
        if (file.Length < 12)
        {
            throw new FormatException($"it has {file.Length} bytes; a Parquet file ends with the length of its footer and PAR1");
        }

        file.Position = file.Length - 8;
        file.ReadExactly(tail);
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(tail);
        if (!tail[4..].SequenceEqual("PAR1"u8) || length > file.Length - 12)
        {
            throw new FormatException($"it ends in {Convert.ToHexString(tail)}; expected the length of the footer and PAR1. The file is truncated, or no Parquet");
        }

        byte[] footer = new byte[length];
        file.Position = file.Length - 8 - length;
        file.ReadExactly(footer);
        file.Position = 0;
        new ParquetFooter(footer).FileMetaData();
    }

    private void FileMetaData()
    {
        int id = 0;
        bool hasSchema = false;
        while (NextField(ref id) is not 0 and int type)
        {
            if (id == 2 && type == List)
            {
                hasSchema = true;
                Schema();
            }
            else
            {
                Value(type, 0);
            }
        }

        if (!hasSchema)
        {
            throw new FormatException("its footer has no schema");
        }
    }

    // The tree is written parents first, each with the number of its children.
    private void Schema()
    {
        byte header = Byte();
        ulong count = Fitting(header >> 4 == 15 ? Variable() : (ulong)(header >> 4));
        if ((header & 15) != Structure || count < 2)
        {
            throw new FormatException($"its schema has {count} elements; expected a root and columns");
        }

        long expected = 1;
        for (ulong i = 0; i < count; i++)
        {
            (bool isColumn, long children) = SchemaElement();
            if (expected == 0 || isColumn == children > 0 || children < 0 || (i == 0 && isColumn))
            {
                throw new FormatException($"element {i} of its schema is out of place: {children} children, {(isColumn ? "a" : "no")} type");
            }

            expected += children - 1;
        }

        if (expected != 0)
        {
            throw new FormatException($"its schema lacks {expected} elements");
        }
    }

    private (bool IsColumn, long Children) SchemaElement()
    {
        int id = 0;
        bool isColumn = false;
        long children = 0;
        while (NextField(ref id) is not 0 and int type)
        {
            if (id == 5 && type is (4 or 5 or 6))
            {
                ulong zigzag = Variable();
                children = (long)(zigzag >> 1) ^ -(long)(zigzag & 1);
                continue;
            }

            isColumn |= id == 1;
            Value(type, 1);
        }

        return (isColumn, children);
    }

    private void Struct(int depth)
    {
        if (depth > Deepest)
        {
            throw new FormatException("its footer is nested too deeply");
        }

        int id = 0;
        while (NextField(ref id) is not 0 and int type)
        {
            Value(type, depth);
        }
    }

    /// <summary>The type of the next field, its id in <paramref name="id"/>; 0 at the end. A flag's value is its type, so it is passed over here.</summary>
    private int NextField(ref int id)
    {
        while (Byte() is not 0 and byte header)
        {
            ulong zigzag = header >> 4 == 0 ? Variable() : 0;
            id = header >> 4 == 0 ? (int)(zigzag >> 1) ^ -(int)(zigzag & 1) : id + (header >> 4);
            if ((header & 15) > 2)
            {
                return header & 15;
            }
        }

        return 0;
    }

    private void Value(int type, int depth)
    {
        switch (type)
        {
            case 1 or 2 or 3:
                Skip(1);
                break;
            case 4 or 5 or 6:
                Variable();
                break;
            case 7:
                Skip(8);
                break;
            case 8:
                Skip(Variable());
                break;
            case 9 or 10:
                byte header = Byte();
                ulong size = Fitting(header >> 4 == 15 ? Variable() : (ulong)(header >> 4));
                for (ulong i = 0; i < size; i++)
                {
                    Value(header & 15, depth + 1);
                }

                break;
            case 11:
                ulong pairs = Fitting(Variable());
                byte types = pairs > 0 ? Byte() : (byte)0;
                for (ulong i = 0; i < pairs; i++)
                {
                    Value(types >> 4, depth + 1);
                    Value(types & 15, depth + 1);
                }

                break;
            case 12:
                Struct(depth + 1);
                break;
            default:
                throw new FormatException($"its footer holds a value of the unknown type {type}");
        }
    }

    // Every element takes a byte at least.
    private readonly ulong Fitting(ulong count) => count <= (ulong)(_bytes.Length - _at) ? count : throw new FormatException($"its footer claims {count} elements in {_bytes.Length - _at} bytes");

    private ulong Variable()
    {
        ulong value = 0;
        for (int shift = 0; shift < 64; shift += 7)
        {
            byte part = Byte();
            value |= (ulong)(part & 127) << shift;
            if (part < 128)
            {
                return value;
            }
        }

        throw new FormatException("its footer holds a number without end");
    }

    private void Skip(ulong count)
    {
        if (count > (ulong)(_bytes.Length - _at))
        {
            throw new FormatException($"its footer claims {count} bytes where {_bytes.Length - _at} are left");
        }

        _at += (int)count;
    }

    private byte Byte() => _at < _bytes.Length ? _bytes[_at++] : throw new FormatException("its footer ends too early");
}

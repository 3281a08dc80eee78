namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>A tensor of the file and where its bytes are.</summary>
internal readonly unsafe struct GgufSource(GgufTensorInfo info, byte* pointer)
{
    public GgufTensorInfo Info { get; } = info;

    public byte* Pointer { get; } = pointer;
}

/// <summary>How one Hugging Face tensor is put together from the file: rows of one or two tensors, then a change of values.</summary>
internal sealed unsafe record GgufTensorPlan(TensorInfo Info, GgufSource[] Sources)
{
    /// <summary>
    /// For each row the row of the file's tensor it is; null: rows follow each other from <see cref="FirstRow"/>. Made
    /// when the tensor is read, since it takes memory by what the header claims.
    /// </summary>
    public Lazy<long[]>? Rows { get; init; }

    /// <summary>Where the rows begin when they follow each other.</summary>
    public long FirstRow { get; init; }

    /// <summary>With two sources: rows of one chunk from the first, then of one chunk from the second, in turn (gate and up of each expert).</summary>
    public long ChunkRows { get; init; }

    /// <summary>Subtract one from every value.</summary>
    public bool MinusOne { get; init; }

    /// <summary>The file has [f, k], wanted is [k, f].</summary>
    public bool Transpose { get; init; }

    /// <summary>Weights of a row of the file's tensor; a vector that is rearranged has rows of one.</summary>
    public long RowSize => Sources[0].Info.Shape.Count < 2 ? 1 : Sources[0].Info.RowSize;

    /// <summary>Whether the mapped bytes are the tensor as they are.</summary>
    public bool IsInPlace => Rows is null && !MinusOne && !Transpose && Sources.Length == 1 && Sources[0].Info.Type.Plain() == Info.Type;

    /// <summary>Whether the tensor is a matrix of block rows that the file has too, if in another order.</summary>
    public bool HasStoredRows => !MinusOne && !Transpose && Sources.Length == 1 && Info.Shape.Count == 2 && Sources[0].Info.Type.Plain() is null;

    /// <summary>Writes the rows as the file has them, see <see cref="HasStoredRows"/>.</summary>
    public void CopyStored(byte* output)
    {
        long bytes = Sources[0].Info.Type.ByteCount(RowSize);
        CopyRows(output, bytes, (source, row, to) => Buffer.MemoryCopy(Sources[source].Pointer + (row * bytes), (void*)to, bytes, bytes));
    }

    /// <summary>Writes the tensor's bytes.</summary>
    public void Read(byte* output)
    {
        if (Sources[0].Info.Type.Plain() == Info.Type && !MinusOne && !Transpose)
        {
            CopyRows(output, RowSize * Info.Type.Size(), (source, row, to) =>
            {
                long bytes = RowSize * Info.Type.Size();
                Buffer.MemoryCopy(Sources[source].Pointer + (row * bytes), (void*)to, bytes, bytes);
            });
            return;
        }

        var floats = (float*)output;
        if (Transpose)
        {
            ReadTransposed(floats);
        }
        else if (Rows is null && Sources.Length == 1)
        {
            GgufTensorType type = Sources[0].Info.Type;
            GgufDequantizer.Dequantize(type, Sources[0].Pointer + type.ByteCount(FirstRow * RowSize), floats, Info.Count);
        }
        else
        {
            CopyRows(output, RowSize * sizeof(float), (source, row, to) =>
            {
                GgufTensorType type = Sources[source].Info.Type;
                long bytes = type.ByteCount(RowSize);
                GgufDequantizer.Dequantize(type, new ReadOnlySpan<byte>(Sources[source].Pointer + (row * bytes), checked((int)bytes)), new Span<float>((void*)to, (int)RowSize));
            });
        }

        if (MinusOne)
        {
            for (long i = 0; i < Info.Count; i++)
            {
                floats[i] -= 1;
            }
        }
    }

    private void CopyRows(byte* output, long rowBytes, Action<int, long, nint> copy)
    {
        long rows = RowSize == 0 ? 0 : Info.Count / RowSize;
        Parallel.For(0, (rows + 255) / 256, piece =>
        {
            for (long row = piece * 256; row < Math.Min(rows, (piece + 1) * 256); row++)
            {
                (int source, long at) = Place(row);
                copy(source, at, (nint)(output + (row * rowBytes)));
            }
        });
    }

    private (int Source, long Row) Place(long row)
    {
        if (Sources.Length == 1)
        {
            return (0, Rows is null ? FirstRow + row : Rows.Value[row]);
        }

        long chunk = row / ChunkRows;
        return ((int)(chunk % 2), (chunk / 2 * ChunkRows) + (row % ChunkRows));
    }

    private void ReadTransposed(float* output)
    {
        long columns = RowSize;
        long rows = Info.Count / columns;
        GgufTensorType type = Sources[0].Info.Type;
        long bytes = type.ByteCount(columns);
        float[] line = new float[columns];
        for (long row = 0; row < rows; row++)
        {
            GgufDequantizer.Dequantize(type, new ReadOnlySpan<byte>(Sources[0].Pointer + (row * bytes), checked((int)bytes)), line);
            for (long column = 0; column < columns; column++)
            {
                output[(column * rows) + row] = line[column];
            }
        }
    }
}

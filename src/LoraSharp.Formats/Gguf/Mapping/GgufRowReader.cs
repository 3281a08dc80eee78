namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>Reads the rows of an <see cref="GgufExportTensor"/> as single precision, a stretch at a time.</summary>
internal sealed class GgufRowReader(ITensorSource source, GgufExportTensor tensor)
{
    private readonly TensorData[] _data = [.. tensor.Sources.Select(source.Read)];

    /// <summary>Weights of a row; a vector is one row, unless its elements are rearranged.</summary>
    public long RowSize { get; } = tensor.Shape.Count switch
    {
        0 => 1,
        1 => tensor.Rows is null ? tensor.Shape[0] : 1,
        _ => tensor.Shape[^1],
    };

    /// <summary>Number of rows.</summary>
    public long Rows => RowSize == 0 ? 0 : tensor.Shape.Aggregate(1L, (a, b) => a * b) / RowSize;

    /// <summary>Rows <paramref name="first"/> and following, as many as fit.</summary>
    public void Read(long first, Span<float> output)
    {
        int size = checked((int)RowSize);
        for (int i = 0; i * size < output.Length; i++)
        {
            Span<float> row = output.Slice(i * size, size);
            if (tensor.Transpose)
            {
                ReadColumn(first + i, row);
            }
            else
            {
                (int part, long at) = Place(first + i);
                ReadElements(_data[part], at * size, row);
            }
        }

        if (tensor.Add != 0)
        {
            foreach (ref float value in output)
            {
                value += tensor.Add;
            }
        }
    }

    private (int Part, long Row) Place(long row)
    {
        if (tensor.Half >= 0)
        {
            long half = tensor.Shape[1];
            return (0, (((row / half * 2) + tensor.Half) * half) + (row % half));
        }

        long perSource = Rows / _data.Length;
        return ((int)(row / perSource), tensor.Rows is null ? row % perSource : tensor.Rows[row]);
    }

    private void ReadColumn(long column, Span<float> row)
    {
        long columns = tensor.Shape[0];
        for (int i = 0; i < row.Length; i++)
        {
            ReadElements(_data[0], (i * columns) + column, row.Slice(i, 1));
        }
    }

    private static void ReadElements(TensorData data, long first, Span<float> output)
    {
        GgufTensorType type = data.Info.Type switch
        {
            ElementType.F32 => GgufTensorType.F32,
            ElementType.F16 => GgufTensorType.F16,
            ElementType.BF16 => GgufTensorType.BF16,
            ElementType.F64 => GgufTensorType.F64,
            _ => throw new LoraSharpException($"tensor '{data.Info.Name}' is of type {data.Info.Type}; only F32, F16, BF16 and F64 weights can be exported. Of a quantised checkpoint export the base it was made from."),
        };
        int size = data.Info.Type.Size();
        GgufDequantizer.Dequantize(type, data.Slice(first * size, output.Length * size), output);
    }
}

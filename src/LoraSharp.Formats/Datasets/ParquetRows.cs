using System.Collections;
using System.Globalization;
using System.Text.Json.Nodes;
using Parquet;
using Parquet.Serialization;

namespace LoraSharp.Formats.Datasets;

/// <summary>Rows of a Parquet file, one row group in memory at a time; nested lists and structs become JSON.</summary>
internal static class ParquetRows
{
    public static IEnumerable<DatasetRow> Read(string path, Stream stream)
    {
        // Parquet is read from its end, and a packed file can't seek: it is unpacked to a temporary file that deletes itself.
        using Stream file = Seekable(path, stream);
        int groups = Try(path, () =>
        {
            ParquetFooter.Check(file);
            ParquetReader reader = ParquetReader.CreateAsync(file, leaveStreamOpen: true).GetAwaiter().GetResult();
            int count = reader.RowGroupCount;
            reader.DisposeAsync().AsTask().GetAwaiter().GetResult();
            return count;
        });
        long number = 0;
        for (int group = 0; group < groups; group++)
        {
            IReadOnlyList<IReadOnlyDictionary<string, object?>> rows = Try(path, () => Group(file, group));
            foreach (IReadOnlyDictionary<string, object?> row in rows)
            {
                var fields = new JsonObject();
                foreach ((string name, object? value) in row)
                {
                    fields[name] = ToJson(value);
                }

                yield return new DatasetRow(new RowOrigin(path, ++number), fields);
            }
        }
    }

    private static IReadOnlyList<IReadOnlyDictionary<string, object?>> Group(Stream file, int group)
    {
        file.Position = 0;
        var result = ParquetSerializer.DeserializeUntypedAsync(file, null, group).GetAwaiter().GetResult();
        return [.. result.Data.Select(row => (IReadOnlyDictionary<string, object?>)row.ToDictionary(p => p.Key, p => (object?)p.Value))];
    }

    private static T Try<T>(string path, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (Exception error) when (error is not LoraSharpException)
        {
            throw new MalformedFileException(path, $"cannot be read as Parquet: {error.Message}", error);
        }
    }

    private static Stream Seekable(string path, Stream stream)
    {
        if (CompressedFile.InnerExtension(path) == Path.GetExtension(path).ToLowerInvariant())
        {
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read);
        }

        var copy = new FileStream(Path.GetTempFileName(), FileMode.Create, FileAccess.ReadWrite, FileShare.None, 1 << 16, FileOptions.DeleteOnClose);
        stream.CopyTo(copy);
        copy.Position = 0;
        return copy;
    }

    private static JsonNode? ToJson(object? value) => value switch
    {
        null => null,
        string text => JsonValue.Create(text),
        bool flag => JsonValue.Create(flag),
        byte or sbyte or short or ushort or int or uint or long => JsonValue.Create(Convert.ToInt64(value, CultureInfo.InvariantCulture)),
        float or double or decimal or ulong => JsonValue.Create(Convert.ToDouble(value, CultureInfo.InvariantCulture)),
        byte[] bytes => JsonValue.Create(System.Text.Encoding.UTF8.GetString(bytes)),
        IDictionary map => Map(map),
        IEnumerable list => new JsonArray([.. list.Cast<object?>().Select(ToJson)]),
        _ => JsonValue.Create(Convert.ToString(value, CultureInfo.InvariantCulture)),
    };

    private static JsonObject Map(IDictionary map)
    {
        var fields = new JsonObject();
        foreach (DictionaryEntry entry in map)
        {
            fields[Convert.ToString(entry.Key, CultureInfo.InvariantCulture)!] = ToJson(entry.Value);
        }

        return fields;
    }
}

using System.Globalization;
using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Gguf;

/// <summary>
/// A GGUF model as one thing: a single file, or all files of a split one (<c>NAME-00001-of-00003.gguf</c>, metadata
/// <c>split.no</c>, <c>split.count</c>, <c>split.tensors.count</c>). Metadata is that of the first file.
/// </summary>
public sealed partial class GgufShards : IDisposable
{
    private readonly Dictionary<string, GgufFile> _places = new(StringComparer.Ordinal);

    private GgufShards(string location, IReadOnlyList<GgufFile> files)
    {
        Location = location;
        Files = files;
        var tensors = new Dictionary<string, GgufTensorInfo>(StringComparer.Ordinal);
        foreach (GgufFile file in files)
        {
            foreach ((string name, GgufTensorInfo tensor) in file.Tensors)
            {
                if (!tensors.TryAdd(name, tensor))
                {
                    throw new MalformedFileException(file.Location, $"tensor '{name}' is also in {_places[name].Location}. Each may be in one file only.");
                }

                _places.Add(name, file);
            }
        }

        Tensors = tensors;
        if (files[0].Find("split.tensors.count") is { } expected && files.Count > 1 && expected.AsInt64() != tensors.Count)
        {
            throw new MalformedFileException(location, $"split.tensors.count is {expected.AsInt64()}, the {files.Count} files hold {tensors.Count} tensors.");
        }
    }

    /// <summary>The path that was opened.</summary>
    public string Location { get; }

    /// <summary>The files in order.</summary>
    public IReadOnlyList<GgufFile> Files { get; }

    /// <summary>Metadata of the first file.</summary>
    public IReadOnlyDictionary<string, GgufValue> Metadata => Files[0].Metadata;

    /// <summary>The tensors of all files by name.</summary>
    public IReadOnlyDictionary<string, GgufTensorInfo> Tensors { get; }

    /// <summary>Opens a model; of a split one, any of its files may be named.</summary>
    /// <exception cref="MalformedFileException">A file is missing or malformed, or the files do not belong together.</exception>
    public static GgufShards Open(string path)
    {
        var files = new List<GgufFile> { GgufFile.Open(path) };
        try
        {
            long count = files[0].Find("split.count")?.AsInt64() ?? 1;
            if (count <= 1)
            {
                return new GgufShards(path, files);
            }

            Match match = ShardName().Match(path);
            if (!match.Success || long.Parse(match.Groups["count"].Value, CultureInfo.InvariantCulture) != count)
            {
                throw new MalformedFileException(path, $"is one of {count} files (split.count), but its name does not end in -0000N-of-{count:D5}.gguf, so the others cannot be found. Give the files their names back.");
            }

            files[0].Dispose();
            files.Clear();
            for (int i = 1; i <= count; i++)
            {
                GgufFile file = GgufFile.Open(string.Create(CultureInfo.InvariantCulture, $"{match.Groups["stem"].Value}-{i:D5}-of-{count:D5}.gguf"));
                files.Add(file);
                long number = file.Find("split.no")?.AsInt64() ?? -1;
                if (number != i - 1 || file.Find("split.count")?.AsInt64() != count)
                {
                    throw new MalformedFileException(file.Location, $"expected split.no {i - 1} of {count}, found {number} of {file.Find("split.count")?.AsInt64() ?? 0}. It belongs to another model.");
                }
            }

            return new GgufShards(path, files);
        }
        catch
        {
            files.ForEach(f => f.Dispose());
            throw;
        }
    }

    /// <summary>The file that holds a tensor.</summary>
    /// <exception cref="MalformedFileException">There is no such tensor.</exception>
    public GgufFile FileOf(string tensor) => _places.TryGetValue(tensor, out GgufFile? file)
        ? file
        : throw new MalformedFileException(Location, $"has no tensor '{tensor}' among its {Tensors.Count}.");

    /// <summary>A metadata value, or null when the key is absent.</summary>
    public GgufValue? Find(string key) => Files[0].Find(key);

    /// <summary>Unmaps the files.</summary>
    public void Dispose()
    {
        foreach (GgufFile file in Files)
        {
            file.Dispose();
        }
    }

    [GeneratedRegex(@"^(?<stem>.*)-[0-9]{5}-of-(?<count>[0-9]{5})\.gguf$")]
    private static partial Regex ShardName();
}

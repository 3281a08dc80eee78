using System.Text.Json;

namespace LoraSharp.Formats.Safetensors;

/// <summary>The weights of a Hugging Face folder: <c>model.safetensors</c>, or the shards that <c>model.safetensors.index.json</c> lists.</summary>
public sealed class SafetensorsCheckpoint : ITensorSource
{
    private readonly IReadOnlyList<SafetensorsFile> _files;
    private readonly Dictionary<string, SafetensorsFile> _places;

    private SafetensorsCheckpoint(string location, IReadOnlyList<SafetensorsFile> files)
    {
        Location = location;
        _files = files;
        _places = new(StringComparer.Ordinal);
        var tensors = new Dictionary<string, TensorInfo>(StringComparer.Ordinal);
        foreach (SafetensorsFile file in files)
        {
            foreach ((string name, TensorInfo info) in file.Tensors)
            {
                if (!tensors.TryAdd(name, info))
                {
                    throw new MalformedFileException(file.Location, $"tensor '{name}' is also in {_places[name].Location}. Each may be in one shard only.");
                }

                _places.Add(name, file);
            }
        }

        Tensors = tensors;
    }

    /// <inheritdoc/>
    public string Location { get; }

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, TensorInfo> Tensors { get; }

    /// <summary>The shards in the index's order.</summary>
    public IReadOnlyList<SafetensorsFile> Files => _files;

    /// <summary>Opens the weights of a folder.</summary>
    /// <exception cref="MalformedFileException">There are none, a shard is missing, or the index disagrees with the shards.</exception>
    public static SafetensorsCheckpoint Open(string folder)
    {
        string single = Path.Combine(folder, "model.safetensors");
        string index = single + ".index.json";
        if (!File.Exists(index))
        {
            if (!File.Exists(single))
            {
                throw Missing(folder);
            }

            return new SafetensorsCheckpoint(folder, [SafetensorsFile.Open(single)]);
        }

        Dictionary<string, string> places = ReadIndex(index);
        var files = new List<SafetensorsFile>();
        try
        {
            foreach (string shard in places.Values.Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal))
            {
                if (shard != Path.GetFileName(shard))
                {
                    throw new MalformedFileException(index, $"the shard name '{shard}' leaves the folder. Expected a plain file name.");
                }

                files.Add(SafetensorsFile.Open(Path.Combine(folder, shard)));
            }

            var checkpoint = new SafetensorsCheckpoint(folder, files);
            string[] absent = [.. places.Keys.Where(name => !checkpoint.Tensors.ContainsKey(name)).Take(10)];
            return absent.Length == 0
                ? checkpoint
                : throw new MalformedFileException(index, $"lists tensors that the shards do not hold: {string.Join(", ", absent)}. A shard is incomplete or of another model.");
        }
        catch
        {
            files.ForEach(f => f.Dispose());
            throw;
        }
    }

    /// <inheritdoc/>
    public TensorData Read(string name) => _places.TryGetValue(name, out SafetensorsFile? file)
        ? file.Read(name)
        : throw new MalformedFileException(Location, $"has no tensor '{name}' among its {Tensors.Count}.");

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (SafetensorsFile file in _files)
        {
            file.Dispose();
        }
    }

    private static Dictionary<string, string> ReadIndex(string path)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(path));
            return document.RootElement.GetProperty("weight_map").EnumerateObject().ToDictionary(p => p.Name, p => p.Value.GetString() ?? throw new InvalidOperationException($"the shard of '{p.Name}' is null"), StringComparer.Ordinal);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException or ArgumentException)
        {
            throw new MalformedFileException(path, $"expected a JSON object with 'weight_map' from tensor names to shard files ({error.Message}).", error);
        }
    }

    private static MalformedFileException Missing(string folder)
    {
        if (!Directory.Exists(folder))
        {
            return new MalformedFileException(folder, "there is no such folder.");
        }

        return Directory.EnumerateFiles(folder, "pytorch_model*.bin").Any()
            ? new MalformedFileException(folder, "holds pytorch_model.bin, a Python pickle, which can run code when it is opened and is not read. Convert it with transformers (model.save_pretrained(..., safe_serialization=True)) or take the repository's safetensors revision.")
            : new MalformedFileException(folder, "holds neither model.safetensors nor model.safetensors.index.json. Expected a Hugging Face model folder.");
    }
}

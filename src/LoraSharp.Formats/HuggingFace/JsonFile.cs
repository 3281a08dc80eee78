using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Formats.HuggingFace;

/// <summary>Reads JSON files with errors that name the file.</summary>
public static class JsonFile
{
    /// <summary>The JSON object in a file.</summary>
    /// <exception cref="MalformedFileException">The file is missing, is no JSON, or holds something else than an object.</exception>
    public static JsonObject ReadObject(string path)
    {
        try
        {
            return StrictJson.Parse(File.ReadAllBytes(path)) as JsonObject
                ?? throw new MalformedFileException(path, "expected a JSON object.");
        }
        catch (JsonException error)
        {
            throw new MalformedFileException(path, $"is not valid JSON: {error.Message}", error);
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new MalformedFileException(path, "there is no such file.", error);
        }
    }
}

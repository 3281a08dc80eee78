using System.Globalization;
using LoraSharp.Formats;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Hub;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Peft;
using LoraSharp.Quantization;

namespace LoraSharp.Cli.Commands;

/// <summary>Models and adapters as users name them on the command line.</summary>
internal static class AdapterInputs
{
    /// <summary>A model's folder or .gguf file; a bitsandbytes checkpoint is seen dequantised.</summary>
    public static ModelSource Model(string name) => BitsAndBytesSource.Unwrap(StoredModel(name));

    /// <summary>A model seen rounded to 4 bits (<c>--quantize nf4</c>), or as it is (<c>none</c>).</summary>
    public static ModelSource RoundedModel(string name, string quantize, bool doubleQuantization, string? modelType)
    {
        ModelSource source = Model(name);
        try
        {
            // What is in 4 bits already is what the adapter was trained on.
            return QuantizationOptions.Named(quantize, doubleQuantization) is { } options && source.Tensors is not BitsAndBytesSource { FourBitCount: > 0 }
                ? FourBitRounding.Of(source, options, modelType)
                : source;
        }
        catch
        {
            source.Dispose();
            throw;
        }
    }

    /// <summary>A model's folder, .gguf file or hub name as it is stored.</summary>
    public static ModelSource StoredModel(string name)
    {
        string path = HubCache.FromEnvironment().Locate(name);
        return path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) ? GgufCheckpoint.OpenModel(path) : ModelSource.OpenFolder(path, name);
    }

    /// <summary>An adapter's folder, .gguf file or hub name; of a .gguf file the base model says how many heads its rows belong to.</summary>
    public static AdapterFolder Adapter(string name, ModelSource? model = null)
    {
        string path = HubCache.FromEnvironment().Locate(name);
        return GgufAdapter.IsAdapterFile(path) ? GgufAdapter.Open(path, model?.Config) : AdapterFolder.Open(path);
    }

    /// <summary>PATH or PATH=WEIGHT; a path may hold '=' itself.</summary>
    public static (string Path, double Weight) Weighted(string text)
    {
        int equals = text.LastIndexOf('=');
        if (equals <= 0 || Directory.Exists(text) || File.Exists(text))
        {
            return (text, 1);
        }

        string number = text[(equals + 1)..];
        return double.TryParse(number, NumberStyles.Float, CultureInfo.InvariantCulture, out double weight) && double.IsFinite(weight)
            ? (text[..equals], weight)
            : throw new LoraSharpException($"'{text}': expected PATH=WEIGHT with a number, found '{number}'. Example: runs/a=0.7");
    }
}

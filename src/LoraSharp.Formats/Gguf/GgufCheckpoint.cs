using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Gguf.Mapping;
using LoraSharp.Formats.Gguf.Tokenization;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Gguf;

/// <summary>
/// A GGUF model as if it were a Hugging Face folder: tensors under state-dict names in the order of rows that
/// transformers has, config.json made from the metadata. Block types are decoded to single precision when they are
/// read; plain types keep theirs and are mapped in place where nothing has to be rearranged.
/// </summary>
public sealed unsafe class GgufCheckpoint : ITensorSource
{
    // Larger than any array may be: such a tensor gets native memory, which lives as long as the checkpoint.
    private const long LargestArray = 0x7FFFFFC7;

    private readonly GgufShards _file;
    private readonly Dictionary<string, GgufTensorPlan> _plans;
    private readonly Dictionary<string, nint> _large = new(StringComparer.Ordinal);
    private bool _disposed;

    private GgufCheckpoint(GgufShards file)
    {
        _file = file;
        Architecture = GgufArchitectures.Of(file);
        var metadata = new GgufModelMetadata(file, Architecture.Name);
        _plans = GgufImportPlan.Create(file, Architecture, metadata);
        Tensors = _plans.ToDictionary(p => p.Key, p => p.Value.Info, StringComparer.Ordinal);
        Config = GgufConfigReader.Read(file, Architecture, metadata, ReadFloats);
    }

    /// <inheritdoc/>
    public string Location => _file.Location;

    /// <inheritdoc/>
    public IReadOnlyDictionary<string, TensorInfo> Tensors { get; }

    /// <summary>config.json as transformers 4 writes it (transformers 5 reads it too).</summary>
    public JsonObject Config { get; }

    /// <summary>The file underneath, with its metadata.</summary>
    public GgufShards File => _file;

    /// <summary>The Jinja source of <c>tokenizer.chat_template</c>; null when there is none.</summary>
    public string? ChatTemplate => _file.Find("tokenizer.chat_template")?.AsString();

    /// <summary>tokenizer.json made from the metadata; null when the file carries no tokenizer.</summary>
    /// <exception cref="MalformedFileException">The tokenizer is of a kind that is not supported, or inconsistent.</exception>
    public JsonObject? TokenizerJson() => GgufVocabulary.Of(_file) is { } vocabulary ? GgufTokenizerReader.TokenizerJson(vocabulary) : null;

    /// <summary>tokenizer_config.json made from the metadata, chat template included; null when the file carries no tokenizer.</summary>
    public JsonObject? TokenizerConfig() => GgufVocabulary.Of(_file) is { } vocabulary
        ? GgufTokenizerReader.TokenizerConfig(vocabulary, ChatTemplate, new GgufModelMetadata(_file, Architecture.Name).Integer("context_length"))
        : null;

    /// <summary>The tokenizer; null when the file carries none.</summary>
    /// <exception cref="MalformedFileException">It is of a kind that is not supported, or inconsistent.</exception>
    public Tokenizer? Tokenizer() => GgufVocabulary.Of(_file) is { } vocabulary ? GgufTokenizerReader.Tokenizer(vocabulary) : null;

    internal GgufArchitecture Architecture { get; }

    /// <summary>Opens a model file; of a split one, any part may be named.</summary>
    /// <exception cref="MalformedFileException">The file is malformed, an adapter, or of an architecture that is not supported.</exception>
    public static GgufCheckpoint Open(string path)
    {
        GgufShards file = GgufShards.Open(path);
        try
        {
            return file.Find("general.type")?.AsString() == "adapter"
                ? throw new MalformedFileException(path, "is a LoRA adapter, expected a model. Give it as --adapter beside its base model.")
                : new GgufCheckpoint(file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Opens a model file as a <see cref="ModelSource"/>, which owns the checkpoint.</summary>
    public static ModelSource OpenModel(string path)
    {
        GgufCheckpoint checkpoint = Open(path);
        return new ModelSource(path, path, checkpoint.Config, checkpoint);
    }

    /// <inheritdoc/>
    public TensorData Read(string name)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        GgufTensorPlan plan = _plans.TryGetValue(name, out GgufTensorPlan? found)
            ? found
            : throw new MalformedFileException(Location, $"has no tensor '{name}'. It holds {Tensors.Count}, the first being {string.Join(", ", Tensors.Keys.Take(5))}.");
        if (plan.IsInPlace)
        {
            return new TensorData(plan.Info, plan.Sources[0].Pointer + (plan.FirstRow * plan.RowSize * plan.Info.Type.Size()));
        }

        if (plan.Info.ByteCount > LargestArray)
        {
            return new TensorData(plan.Info, (byte*)ReadLarge(name, plan));
        }

        byte[] bytes = GC.AllocateUninitializedArray<byte>((int)plan.Info.ByteCount);
        fixed (byte* output = bytes)
        {
            plan.Read(output);
        }

        return new TensorData(plan.Info, bytes);
    }

    /// <summary>A matrix in the blocks it is stored in; null for a tensor of a plain type, or one that is put together from others.</summary>
    public GgufStoredMatrix? FindStored(string name)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return _plans.TryGetValue(name, out GgufTensorPlan? plan) && plan.HasStoredRows ? new GgufStoredMatrix(plan) : null;
    }

    /// <summary>Unmaps the file: no tensor laid over it may be used afterwards.</summary>
    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        _file.Dispose();
        foreach (nint memory in _large.Values)
        {
            NativeMemory.Free((void*)memory);
        }

        _large.Clear();
    }

    private nint ReadLarge(string name, GgufTensorPlan plan)
    {
        lock (_large)
        {
            if (!_large.TryGetValue(name, out nint memory))
            {
                memory = (nint)NativeMemory.Alloc((nuint)plan.Info.ByteCount);
                plan.Read((byte*)memory);
                _large.Add(name, memory);
            }

            return memory;
        }
    }

    private float[] ReadFloats(string gguf)
    {
        GgufTensorInfo tensor = _file.Tensors[gguf];
        if (tensor.Shape.Count != 1 || tensor.Count > 1 << 16)
        {
            throw new MalformedFileException(Location, $"tensor '{gguf}' has the shape [{string.Join(", ", tensor.Shape)}], expected a vector of rotary factors.");
        }

        float[] values = new float[checked((int)tensor.Count)];
        fixed (float* output = values)
        {
            GgufDequantizer.Dequantize(tensor.Type, _file.FileOf(gguf).Pointer(tensor), output, values.Length);
        }

        return Array.TrueForAll(values, float.IsFinite)
            ? values
            : throw new MalformedFileException(Location, $"tensor '{gguf}' holds factors that are not finite.");
    }
}

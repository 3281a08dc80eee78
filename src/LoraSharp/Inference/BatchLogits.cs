using LoraSharp.Formats;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Inference;

/// <summary>Logits of a batch that lies in a file.</summary>
public static class BatchLogits
{
    /// <summary>Reads <c>input_ids</c> and, if it is there, <c>attention_mask</c>, and writes <c>logits</c> [b, s, v] in float32.</summary>
    /// <param name="model">The model.</param>
    /// <param name="input">The ids, [b, s] of any integer type.</param>
    /// <param name="output">The file to write; complete or not there.</param>
    /// <exception cref="LoraSharpException">A tensor is missing, has another shape, or holds ids outside the vocabulary.</exception>
    public static void Write(CausalLanguageModel model, SafetensorsFile input, string output)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(input);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor ids = Read(input, "input_ids", null);
        Tensor? mask = input.Tensors.ContainsKey("attention_mask") ? Read(input, "attention_mask", ids.shape) : null;
        long smallest = ids.min().item<long>(), largest = ids.max().item<long>();
        if (smallest < 0 || largest >= model.Config.VocabularySize)
        {
            throw new MalformedFileException(input.Location, $"'input_ids' holds {(smallest < 0 ? smallest : largest)}, expected ids from 0 to {model.Config.VocabularySize - 1}.");
        }

        if (model.Config.Positions is { } table && ids.shape[1] > table.Count)
        {
            throw new MalformedFileException(input.Location, $"'input_ids' has rows of {ids.shape[1]} tokens; the model has {table.Count} positions.");
        }

        ids = ids.to(model.Device);
        using var attention = new PaddedAttention(mask?.to(model.Device));
        Tensor logits = model.Forward(ids, model.Positions(ids.shape[1], mask), attention).to(ScalarType.Float32).cpu().contiguous();
        var info = new TensorInfo("logits", ElementType.F32, logits.shape);
        SafetensorsWriter.Write(output, [new(info, stream => TensorBytes.CopyTo(logits, stream))]);
    }

    private static Tensor Read(SafetensorsFile file, string name, long[]? shape)
    {
        TensorInfo info = file.Read(name).Info;
        if (info.Shape.Count != 2 || info.Count == 0 || (shape is not null && !info.Shape.SequenceEqual(shape)))
        {
            throw new MalformedFileException(file.Location, $"'{name}' has the shape {info.ShapeText}, expected {(shape is null ? "[b, s]" : $"[{string.Join(", ", shape)}]")}.");
        }

        return info.Type is ElementType.F64 or ElementType.F32 or ElementType.F16 or ElementType.BF16
            ? throw new MalformedFileException(file.Location, $"'{name}' has the type {info.Type}, expected an integer type.")
            : TensorBytes.ToTensor(file.Read(name), null, CPU).to(ScalarType.Int64);
    }
}

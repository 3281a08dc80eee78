using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Gguf;

/// <summary>How the tensors of two sources compare.</summary>
/// <param name="Tensors">Number compared; names and shapes are the same, or there is an error.</param>
/// <param name="LargestDifference">Largest |a − b|.</param>
/// <param name="LargestRelativeError">Largest ‖a − b‖ / ‖a‖ of a tensor.</param>
/// <param name="Worst">The tensor it belongs to; null when all are equal.</param>
public sealed record TensorComparison(int Tensors, double LargestDifference, double LargestRelativeError, string? Worst);

/// <summary>How two tokenizers compare.</summary>
/// <param name="Texts">Number of sample texts.</param>
/// <param name="Tokens">Number of tokens the first made of them.</param>
/// <param name="Differing">Texts of which the second made other tokens, or that it decodes otherwise.</param>
public sealed record TokenizerComparison(int Texts, int Tokens, IReadOnlyList<string> Differing);

/// <summary>Opens again what was written and compares it with what it was written from.</summary>
public static class GgufExportCheck
{
    private const int Stretch = 1 << 20;

    private static readonly string[] Samples =
    [
        "Hello, world!", "  two  spaces   three\tand a tab\n\nand lines\r\n", "It's 3.14159, 1,234,567 and 0x7F — we'll see what they've done.",
        "def f(x):\n    return x ** 2  # comment\n", "Grüße aus Köln, naïve café, ÅÄÖ; Ça va?", "日本語のテキストと中文文本，以及한국어.", "Привет, мир! Γειά σου κόσμε.",
        "مرحبا بالعالم שלום עולם नमस्ते", "🙂👩‍👩‍👧‍👦🇩🇪 emoji and zero\u200bwidth", "<|im_start|>user\nHi<|im_end|>\n<s>[INST] x [/INST]</s><bos><|eot_id|>", "SCREAMING camelCase snake_case kebab-case", " ", "\n", "a",
    ];

    /// <summary>Compares every tensor.</summary>
    /// <exception cref="LoraSharpException">Names or shapes differ: what was written is not the model.</exception>
    public static TensorComparison Tensors(ITensorSource expected, ITensorSource found, Func<string, bool>? mayMiss = null)
    {
        ArgumentNullException.ThrowIfNull(expected);
        ArgumentNullException.ThrowIfNull(found);
        string[] faults =
        [
            .. expected.Tensors.Values.Where(t => !found.Tensors.ContainsKey(t.Name) && mayMiss?.Invoke(t.Name) != true).Select(t => $"missing {t.Name} {t.ShapeText}"),
            .. found.Tensors.Values.Where(t => !expected.Tensors.ContainsKey(t.Name)).Select(t => $"new {t.Name} {t.ShapeText}"),
            .. expected.Tensors.Values.Where(t => found.Tensors.TryGetValue(t.Name, out TensorInfo? other) && !other.Shape.SequenceEqual(t.Shape)).Select(t => $"{t.Name} {t.ShapeText} became {found.Tensors[t.Name].ShapeText}"),
        ];
        if (faults.Length > 0)
        {
            throw new LoraSharpException($"{found.Location}: does not hold the tensors of {expected.Location} ({faults.Length} differ): {string.Join("; ", faults.Take(10))}. This is a fault of the conversion; please report it.");
        }

        int count = 0;
        double largest = 0;
        double relative = 0;
        string? worst = null;
        foreach (string name in expected.Tensors.Keys.Where(found.Tensors.ContainsKey))
        {
            (double difference, double error) = Compare(expected.Read(name), found.Read(name));
            largest = Math.Max(largest, difference);
            count++;
            if (error > relative)
            {
                (relative, worst) = (error, name);
            }
        }

        return new TensorComparison(count, largest, relative, worst);
    }

    /// <summary>Compares ids and decodings of sample texts in a dozen scripts.</summary>
    public static TokenizerComparison Tokenizers(Tokenizer expected, Tokenizer found)
    {
        ArgumentNullException.ThrowIfNull(expected);
        ArgumentNullException.ThrowIfNull(found);
        var differing = new List<string>();
        int tokens = 0;
        foreach (string text in Samples)
        {
            int[] ids = expected.Encode(text);
            tokens += ids.Length;
            if (!ids.SequenceEqual(found.Encode(text)) || expected.Decode(ids) != found.Decode(ids))
            {
                differing.Add(text);
            }
        }

        return new TokenizerComparison(Samples.Length, tokens, differing);
    }

    private static (double Difference, double Error) Compare(TensorData a, TensorData b)
    {
        float[] first = new float[(int)Math.Min(Stretch, Math.Max(1, a.Info.Count))];
        float[] second = new float[first.Length];
        double largest = 0;
        double error = 0;
        double norm = 0;
        for (long at = 0; at < a.Info.Count; at += first.Length)
        {
            int count = (int)Math.Min(first.Length, a.Info.Count - at);
            Floats(a, at, first.AsSpan(0, count));
            Floats(b, at, second.AsSpan(0, count));
            for (int i = 0; i < count; i++)
            {
                double difference = first[i] - second[i];
                largest = Math.Max(largest, Math.Abs(difference));
                error += difference * difference;
                norm += (double)first[i] * first[i];
            }
        }

        return (largest, norm == 0 ? (error == 0 ? 0 : double.PositiveInfinity) : Math.Sqrt(error / norm));
    }

    internal static void Floats(TensorData data, long first, Span<float> output)
    {
        GgufTensorType type = data.Info.Type switch
        {
            ElementType.F32 => GgufTensorType.F32,
            ElementType.F16 => GgufTensorType.F16,
            ElementType.BF16 => GgufTensorType.BF16,
            ElementType.F64 => GgufTensorType.F64,
            ElementType.I8 => GgufTensorType.I8,
            ElementType.I16 => GgufTensorType.I16,
            ElementType.I32 => GgufTensorType.I32,
            ElementType.I64 => GgufTensorType.I64,
            _ => throw new LoraSharpException($"tensor '{data.Info.Name}' is of type {data.Info.Type}, expected a number of 8 to 64 bits."),
        };
        int size = data.Info.Type.Size();
        GgufDequantizer.Dequantize(type, data.Slice(first * size, output.Length * size), output);
    }
}

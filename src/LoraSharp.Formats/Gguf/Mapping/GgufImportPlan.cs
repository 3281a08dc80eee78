namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>Plans for every Hugging Face tensor that a file holds.</summary>
internal static class GgufImportPlan
{
    // The largest mixture of experts has some 70,000; each takes a record, a name and an entry, which a stack of tiny
    // experts in the file would multiply.
    private const int MostTensors = 131_072;

    public static unsafe Dictionary<string, GgufTensorPlan> Create(GgufShards file, GgufArchitecture architecture, GgufModelMetadata metadata)
    {
        var names = new GgufNames(architecture);
        var plans = new Dictionary<string, GgufTensorPlan>(StringComparer.Ordinal);
        var unknown = new List<string>();
        foreach (GgufTensorInfo tensor in file.Tensors.Values)
        {
            if (names.FromGguf(tensor.Name) is not { } match)
            {
                unknown.Add($"{tensor.Name} [{string.Join(", ", tensor.Shape)}]");
                continue;
            }

            if (match.Rule.Layout == GgufLayout.Ignored)
            {
                continue;
            }

            GgufSource Source(GgufTensorInfo info) => new(info, file.FileOf(info.Name).Pointer(info));
            foreach (GgufTensorPlan plan in Plans(file, tensor, match.Rule, match.Layer, match.Suffix, metadata, Source))
            {
                if (plans.Count >= MostTensors)
                {
                    throw new MalformedFileException(file.Location, $"stands for more than {MostTensors} Hugging Face tensors, found at tensor '{tensor.Name}' [{string.Join(", ", tensor.Shape)}].");
                }

                if (!plans.TryAdd(plan.Info.Name, plan))
                {
                    throw new MalformedFileException(file.Location, $"two tensors are {plan.Info.Name} of a Hugging Face model, one of them {tensor.Name}.");
                }
            }
        }

        return unknown.Count == 0
            ? plans
            : throw new MalformedFileException(
                file.Location,
                $"holds {unknown.Count} tensors that the architecture {architecture.Name} does not have: {string.Join(", ", unknown.Take(20))}{(unknown.Count > 20 ? ", ..." : string.Empty)}. It is of a variant that is not supported.");
    }

    private static IEnumerable<GgufTensorPlan> Plans(
        GgufShards file, GgufTensorInfo tensor, GgufTensorRule rule, int layer, string suffix, GgufModelMetadata metadata, Func<GgufTensorInfo, GgufSource> source)
    {
        string name = GgufNames.Fill(rule.HuggingFace, layer) + suffix;
        ElementType type = tensor.Type.Plain() ?? ElementType.F32;
        GgufSource[] sources = [source(tensor)];
        switch (rule.Layout)
        {
            case GgufLayout.RotaryQuery or GgufLayout.RotaryKey:
                int heads = metadata.Integer("attention.head_count");
                heads = rule.Layout == GgufLayout.RotaryKey ? metadata.IntegerOrNull("attention.head_count_kv") ?? heads : heads;
                yield return new(new TensorInfo(name, type, tensor.Shape), sources) { Rows = Rotary(file, tensor, heads) };
                break;
            case GgufLayout.NeoxQkv:
                yield return new(new TensorInfo(name, type, tensor.Shape), sources) { Rows = Grouped(file, tensor, metadata.Integer("attention.head_count"), 1) };
                break;
            case GgufLayout.FalconQkv:
                int groups = metadata.Integer("attention.head_count_kv");
                yield return new(new TensorInfo(name, type, tensor.Shape), sources) { Rows = Grouped(file, tensor, groups, metadata.Integer("attention.head_count") / Math.Max(1, groups)) };
                break;
            case GgufLayout.PlusOne when suffix == ".weight":
                yield return new(new TensorInfo(name, ElementType.F32, tensor.Shape), sources) { MinusOne = true };
                break;
            case GgufLayout.Transposed when tensor.Shape.Count == 2:
                yield return new(new TensorInfo(name, ElementType.F32, [tensor.Shape[1], tensor.Shape[0]]), sources) { Transpose = true };
                break;
            case GgufLayout.Experts:
                Need(file, tensor, tensor.Shape.Count == 3 && tensor.Shape[0] <= 4096 && tensor.Count > 0, "[experts, rows, columns]");
                for (int expert = 0; expert < tensor.Shape[0]; expert++)
                {
                    yield return new(new TensorInfo(GgufNames.Fill(rule.HuggingFace, layer, expert) + suffix, type, [tensor.Shape[1], tensor.Shape[2]]), sources) { FirstRow = expert * tensor.Shape[1] };
                }

                break;
            case GgufLayout.GateUpExperts:
                string secondName = GgufNames.Fill(rule.Second!, layer) + suffix;
                Need(file, tensor, tensor.Shape.Count == 3, "[experts, rows, columns]");
                GgufTensorInfo second = file.Tensors.TryGetValue(secondName, out GgufTensorInfo? found) && found.Shape.SequenceEqual(tensor.Shape) && found.Type.Plain() == tensor.Type.Plain()
                    ? found
                    : throw new MalformedFileException(file.Location, $"tensor '{tensor.Name}' needs '{secondName}' of the same shape and kind beside it.");
                yield return new(new TensorInfo(name, type, [tensor.Shape[0], tensor.Shape[1] * 2, tensor.Shape[2]]), [sources[0], source(second)]) { ChunkRows = tensor.Shape[1] };
                break;
            default:
                yield return new(new TensorInfo(name, type, tensor.Shape), sources);
                break;
        }
    }

    private static Lazy<long[]> Rotary(GgufShards file, GgufTensorInfo tensor, int heads)
    {
        long rows = Rows(file, tensor);
        Need(file, tensor, heads > 0 && rows % (2L * heads) == 0, $"rows for {heads} heads of even size");
        return new(() => GgufRowOrder.Rotary(rows, heads));
    }

    private static Lazy<long[]> Grouped(GgufShards file, GgufTensorInfo tensor, int groups, int queriesPerGroup)
    {
        long rows = Rows(file, tensor);
        Need(file, tensor, groups > 0 && queriesPerGroup > 0 && rows % (groups * (queriesPerGroup + 2L)) == 0, $"rows for {groups} groups of {queriesPerGroup} queries, a key and a value");
        return new(() => GgufRowOrder.GroupedQkv(rows, groups, queriesPerGroup));
    }

    private static long Rows(GgufShards file, GgufTensorInfo tensor)
    {
        // A permutation takes memory of its own, so an absurd one is refused before it is made.
        Need(file, tensor, tensor.Shape.Count is 1 or 2 && tensor.Shape[0] <= 1 << 20 && (tensor.Shape.Count == 2 || tensor.Type.BlockWeights() == 1), "at most 1048576 rows");
        return tensor.Shape[0];
    }

    private static void Need(GgufShards file, GgufTensorInfo tensor, bool holds, string expected)
    {
        if (!holds)
        {
            throw new MalformedFileException(file.Location, $"tensor '{tensor.Name}' has the shape [{string.Join(", ", tensor.Shape)}] of type {tensor.Type}, expected {expected}.");
        }
    }
}

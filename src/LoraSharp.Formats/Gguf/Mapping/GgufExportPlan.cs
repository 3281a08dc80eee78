namespace LoraSharp.Formats.Gguf.Mapping;

/// <summary>One tensor of the file to be written and the Hugging Face tensors its rows come from.</summary>
/// <param name="Name">Name in the file.</param>
/// <param name="Shape">Sizes, outermost first.</param>
/// <param name="Sources">State-dict names; each gives the same number of rows (experts), in order.</param>
internal sealed record GgufExportTensor(string Name, IReadOnlyList<long> Shape, IReadOnlyList<string> Sources)
{
    /// <summary>For each row of the file's tensor the row of its source; null: the same.</summary>
    public long[]? Rows { get; init; }

    /// <summary>Added to every value.</summary>
    public float Add { get; init; }

    /// <summary>The source is [k, f], the file [f, k].</summary>
    public bool Transpose { get; init; }

    /// <summary>Of a source [e, 2f, k], take of each expert the first (0) or second (1) half; −1: all.</summary>
    public int Half { get; init; } = -1;
}

/// <summary>Plans for every tensor of the file from the tensors of a state dict.</summary>
internal static class GgufExportPlan
{
    public static IReadOnlyList<GgufExportTensor> Create(ITensorSource source, GgufModelConfig config, GgufArchitecture architecture)
    {
        var names = new GgufNames(architecture);
        var plans = new List<GgufExportTensor>();
        var experts = new Dictionary<string, SortedDictionary<int, string>>(StringComparer.Ordinal);
        var unknown = new List<string>();
        // A config.json that does not say leaves it to the weights.
        bool tied = architecture.MayTie && (config.FlagOrNull("tie_word_embeddings") ?? !source.Tensors.Keys.Any(n => Match(names, n)?.Rule.Gguf == "output"));
        foreach (TensorInfo tensor in source.Tensors.Values.OrderBy(t => Order(t.Name)).ThenBy(t => t.Name, StringComparer.Ordinal))
        {
            if (IsBuffer(tensor.Name))
            {
                continue;
            }

            if (Match(names, tensor.Name) is not { } match)
            {
                // A tied output that is stored all the same.
                if (!(tied && tensor.Name is "lm_head.weight"))
                {
                    unknown.Add($"{tensor.Name} {tensor.ShapeText}");
                }

                continue;
            }

            if (tied && match.Rule.Gguf == "output")
            {
                continue;
            }

            string name = GgufNames.Fill(match.Rule.Gguf, match.Layer) + Suffix(match.Suffix);
            if (match.Rule.Layout == GgufLayout.Experts)
            {
                if (!experts.TryGetValue(name, out SortedDictionary<int, string>? of))
                {
                    experts.Add(name, of = []);
                }

                of.Add(match.Expert, tensor.Name);
                continue;
            }

            plans.AddRange(Plans(config, tensor, match.Rule, match.Layer, name, match.Suffix));
        }

        if (unknown.Count > 0)
        {
            throw new LoraSharpException($"{source.Location}: {unknown.Count} tensors have no place in a GGUF file of architecture {architecture.Name}: {string.Join(", ", unknown.Take(20))}{(unknown.Count > 20 ? ", ..." : string.Empty)}.");
        }

        foreach ((string name, SortedDictionary<int, string> of) in experts)
        {
            TensorInfo first = source.Tensors[of.First().Value];
            if (of.Keys.Last() != of.Count - 1 || of.Values.Any(n => !source.Tensors[n].Shape.SequenceEqual(first.Shape)))
            {
                throw new MalformedFileException(source.Location, $"the experts of {name} are not numbered 0 to {of.Count - 1} with equal shapes.");
            }

            plans.Add(new GgufExportTensor(name, [of.Count, .. first.Shape], [.. of.Values]));
        }

        return plans;
    }

    /// <summary>The rule for a name; checkpoints of the bare model leave the first part out.</summary>
    private static (GgufTensorRule Rule, int Layer, int Expert, string Suffix)? Match(GgufNames names, string name) =>
        names.FromHuggingFace(name) ?? names.FromHuggingFace("model." + name) ?? names.FromHuggingFace("transformer." + name);

    private static IEnumerable<GgufExportTensor> Plans(GgufModelConfig config, TensorInfo tensor, GgufTensorRule rule, int layer, string name, string suffix)
    {
        string[] sources = [tensor.Name];
        var plan = new GgufExportTensor(name, tensor.Shape, sources);
        switch (rule.Layout)
        {
            case GgufLayout.RotaryQuery or GgufLayout.RotaryKey:
                int heads = config.Integer("num_attention_heads");
                heads = rule.Layout == GgufLayout.RotaryKey ? config.IntegerOrNull("num_key_value_heads") ?? heads : heads;
                Need(config, tensor, heads > 0 && tensor.Shape[0] % (2L * heads) == 0, $"rows for {heads} heads of even size");
                return [plan with { Rows = GgufRowOrder.Inverse(GgufRowOrder.Rotary(tensor.Shape[0], heads)) }];
            case GgufLayout.NeoxQkv:
                int all = config.Integer("num_attention_heads");
                Need(config, tensor, all > 0 && tensor.Shape[0] % (3L * all) == 0, $"rows for {all} heads of q, k and v");
                return [plan with { Rows = GgufRowOrder.Inverse(GgufRowOrder.GroupedQkv(tensor.Shape[0], all, 1)) }];
            case GgufLayout.FalconQkv:
                int queries = config.Integer("num_attention_heads");
                int groups = config.FlagOrNull("new_decoder_architecture") == true ? config.Integer("num_kv_heads") : 1;
                Need(config, tensor, groups > 0 && queries % groups == 0 && tensor.Shape[0] % (queries + (2L * groups)) == 0, $"rows for {queries} queries in {groups} groups");
                return [plan with { Rows = GgufRowOrder.Inverse(GgufRowOrder.GroupedQkv(tensor.Shape[0], groups, queries / groups)) }];
            case GgufLayout.PlusOne when suffix == ".weight":
                return [plan with { Add = 1 }];
            case GgufLayout.Transposed when tensor.Shape.Count == 2:
                return [plan with { Shape = [tensor.Shape[1], tensor.Shape[0]], Transpose = true }];
            case GgufLayout.GateUpExperts:
                Need(config, tensor, tensor.Shape.Count == 3 && tensor.Shape[1] % 2 == 0, "[experts, 2 × rows, columns]");
                long[] shape = [tensor.Shape[0], tensor.Shape[1] / 2, tensor.Shape[2]];
                return
                [
                    plan with { Shape = shape, Half = 0 },
                    plan with { Name = GgufNames.Fill(rule.Second!, layer) + Suffix(suffix), Shape = shape, Half = 1 },
                ];
            default:
                return [plan];
        }
    }

    private static string Suffix(string suffix) => suffix.Length == 0 ? ".weight" : suffix;

    /// <summary>Embedding first, then layer by layer, the ends last: the order llama.cpp's converter writes.</summary>
    private static (int, int) Order(string name)
    {
        string[] parts = name.Split('.');
        int layer = parts.Select(p => int.TryParse(p, out int number) ? number : -1).FirstOrDefault(n => n >= 0, -1);
        return layer >= 0 ? (1, layer) : (name.Contains("emb", StringComparison.Ordinal) || name.Contains("wte", StringComparison.Ordinal) ? 0 : 2, 0);
    }

    /// <summary>Tables that old checkpoints store and that follow from the configuration.</summary>
    private static bool IsBuffer(string name) =>
        name.EndsWith("rotary_emb.inv_freq", StringComparison.Ordinal) || name.EndsWith(".masked_bias", StringComparison.Ordinal)
        || name.EndsWith(".attn.bias", StringComparison.Ordinal) || name.EndsWith(".attention.bias", StringComparison.Ordinal);

    private static void Need(GgufModelConfig config, TensorInfo tensor, bool holds, string expected)
    {
        if (!holds)
        {
            throw new MalformedFileException(config.Location, $"tensor '{tensor.Name}' has the shape {tensor.ShapeText}, expected {expected}.");
        }
    }
}

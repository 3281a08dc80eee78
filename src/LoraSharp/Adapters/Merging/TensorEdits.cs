using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Merging;

/// <summary>What happens to each tensor of a checkpoint: planned from the adapters' keys, with every fault found before a byte is written.</summary>
internal sealed class TensorEdits
{
    private readonly Dictionary<string, List<Edit>> _edits = new(StringComparer.Ordinal);
    private readonly List<string> _faults = [];
    private readonly CheckpointNames _names;
    private readonly IReadOnlyDictionary<string, TensorInfo> _tensors;
    private readonly bool _unmerge;

    public TensorEdits(CheckpointNames names, ITensorSource source, IReadOnlyList<MergedAdapter> adapters, bool unmerge)
    {
        _names = names;
        _tensors = source.Tensors;
        _unmerge = unmerge;
        foreach (MergedAdapter adapter in adapters)
        {
            foreach (IGrouping<string, AdapterTensor> module in adapter.Folder.Parts.GroupBy(p => p.Module, StringComparer.Ordinal))
            {
                Plan(adapter, module.Key, [.. module]);
            }
        }

        Untie(adapters);
        if (_faults.Count > 0)
        {
            throw new LoraSharpException(
                $"{source.Location}: the adapter can't be {(unmerge ? "taken out of" : "merged into")} this model ({_faults.Count} faults):\n  {string.Join("\n  ", _faults.Take(20))}{(_faults.Count > 20 ? $"\n  ... and {_faults.Count - 20} more" : string.Empty)}\nCheck that it was made for this base.");
        }
    }

    /// <summary>Names of tensors that change.</summary>
    public IReadOnlyCollection<string> Changed => _edits.Keys;

    /// <summary>The head's tensor that has to be written because it no longer equals the embedding; null for none.</summary>
    public string? UntiedHead { get; private set; }

    /// <summary>The tensor's new value as float32 in the checkpoint's layout, in the current scope.</summary>
    /// <param name="name">The tensor.</param>
    /// <param name="stored">Its value, float32, in the checkpoint's layout.</param>
    public Tensor Apply(string name, Tensor stored)
    {
        if (!_edits.TryGetValue(name, out List<Edit>? edits))
        {
            return stored;
        }

        Tensor result = stored;
        foreach (Edit edit in edits)
        {
            MergedAdapter adapter = edit.Adapter;
            Tensor changed = edit.Saved is not null ? AdapterReader.Float(adapter.Folder, edit.Saved)
                : edit.Slice is { } slice ? Experts(adapter, edit.Module, slice, stored)
                : name.EndsWith(".bias", StringComparison.Ordinal) ? Bias(adapter, edit.Module, stored) : Weight(adapter, edit.Module, stored);
            double weight = _unmerge ? -adapter.Weight : adapter.Weight;
            // One adapter as it was trained is taken as it is, without a subtraction and addition that round.
            result = edits.Count == 1 && weight == 1 ? changed : result + ((changed - stored) * weight);
        }

        return result;
    }

    private Tensor Weight(MergedAdapter adapter, string module, Tensor stored)
    {
        using AdapterModule update = AdapterReader.Read(adapter.Folder, module);
        bool transposed = !update.IsEmbedding && _names.IsTransposed(module);
        Tensor weight = stored;
        if (update.Weight is not null && !_unmerge)
        {
            weight = update.Weight.DetachFromDisposeScope().alias();
        }

        if (update.TokenRows is not null)
        {
            weight = weight.index_copy(0, update.TokenIds!, update.TokenRows);
        }

        if (update.A is null)
        {
            return weight;
        }

        // [f, k] of a linear layer, [d, v] of an embedding: the orientation of B·A.
        Tensor oriented = transposed || update.IsEmbedding ? weight.t() : weight;
        if (adapter.Folder.Config.ChangesBase)
        {
            Residual.Anchor(update, oriented, adapter.Folder.Config.InitLoraWeights);
        }

        Tensor merged = oriented + update.Delta()!;
        if (update.Magnitude is not null)
        {
            merged = merged * (update.Magnitude / linalg.norm(merged, dims: [1])).unsqueeze(1);
        }

        return transposed || update.IsEmbedding ? merged.t().contiguous() : merged;
    }

    // A whole stack, [E, f, k] or [E, k, f], or rows of one expert's matrix.
    private static Tensor Experts(MergedAdapter adapter, string module, (int? Expert, long FirstRow) slice, Tensor stored)
    {
        using AdapterModule update = AdapterReader.Read(adapter.Folder, module);
        if (slice.Expert is not { } expert)
        {
            Tensor delta = update.Delta()!;
            return stored + (IsStoredTransposed(module) ? delta.transpose(1, 2) : delta);
        }

        (Tensor a, Tensor b) = update.OfExpert(expert);
        return stored + (b.narrow(0, slice.FirstRow, stored.shape[0]).mm(a) * update.Scaling);
    }

    // A parameter of its own name (gpt-oss, Llama 4) is multiplied from the right; a module's weight from the left.
    private static bool IsStoredTransposed(string parameter) => !parameter.EndsWith(".weight", StringComparison.Ordinal);

    private static Tensor Bias(MergedAdapter adapter, string module, Tensor stored)
    {
        using AdapterModule update = AdapterReader.Read(adapter.Folder, module);
        Tensor bias = update.Bias is null ? stored : update.Bias.clone();
        return update.BBias is null ? bias : bias + (update.BBias * update.Scaling);
    }

    private void Plan(MergedAdapter adapter, string module, AdapterTensor[] parts)
    {
        foreach (AdapterTensor part in parts)
        {
            if (_unmerge && part.Part is AdapterPart.Saved or AdapterPart.BaseBias or AdapterPart.TokenRows or AdapterPart.Magnitude)
            {
                _faults.Add(part.Part == AdapterPart.Magnitude
                    ? $"{part.Key}: DoRA gives every row a new length and the old one is not kept, so it can't be taken out. Use the base model."
                    : $"{part.Key}: it took the place of the base's tensor, which is not kept, so it can't be taken out. Use the base model.");
                return;
            }
        }

        if (_unmerge && adapter.Folder.Config.ChangesBase)
        {
            _faults.Add($"{module}: its factors ({adapter.Folder.Config.InitLoraWeights}) belong to a residual of the base, which can't be computed from the merged model. Use the base model.");
            return;
        }

        foreach (AdapterTensor part in parts.Where(p => p.Part == AdapterPart.Saved))
        {
            string name = _names.Find(part.BaseName) ?? part.BaseName;
            if (CheckpointNames.IsHead(name) && !_tensors.ContainsKey(name) && _names.HeadIsTied)
            {
                UntiedHead = name;
                Add(name, _tensors[_names.InputEmbedding!].Shape, adapter, module, part.Key, part.Info.Shape);
            }
            else if (_tensors.TryGetValue(name, out TensorInfo? info))
            {
                Add(name, info.Shape, adapter, module, part.Key, part.Info.Shape);
            }
            else
            {
                _faults.Add($"{part.Key} {part.Info.ShapeText}: the model has no tensor {part.BaseName}.");
            }
        }

        if (parts.FirstOrDefault(p => p.Part == AdapterPart.StackA) is { } stackA && parts.FirstOrDefault(p => p.Part == AdapterPart.StackB) is { } stackB)
        {
            PlanStack(adapter, module, stackA, stackB);
        }

        bool hasWeight = parts.Any(p => p.Part is AdapterPart.LoraA or AdapterPart.EmbeddingA or AdapterPart.TokenRows or AdapterPart.BaseWeight);
        if (hasWeight)
        {
            PlanWeight(adapter, module, parts);
        }

        if (parts.Any(p => p.Part is AdapterPart.BaseBias or AdapterPart.LoraBBias))
        {
            if (_names.Find(module + ".bias") is { } bias)
            {
                Add(bias, _tensors[bias].Shape, adapter, module, null, null);
            }
            else
            {
                _faults.Add($"{module}: the adapter has a bias, but the model's layer has none to merge it into.");
            }
        }
    }

    private void PlanStack(MergedAdapter adapter, string module, AdapterTensor a, AdapterTensor b)
    {
        int count = (int)(a.Info.Shape[0] / PeftMatching.RankOf(adapter.Folder.Config, module));
        (long k, long f) = (a.Info.Shape[1], b.Info.Shape[0]);
        IReadOnlyList<(string Tensor, int? Expert, long FirstRow)> places = _names.FindStack(module, count);
        if (places.Count == 0)
        {
            _faults.Add($"{module}: the model has no such tensor, and no experts that it would be a stack of.");
        }

        foreach ((string tensor, int? expert, long firstRow) in places)
        {
            IReadOnlyList<long> shape = _tensors[tensor].Shape;
            bool fits = expert is null
                ? shape.SequenceEqual(IsStoredTransposed(module) ? [count, k, f] : [count, f, k])
                : shape.Count == 2 && shape[1] == k && firstRow + shape[0] <= f;
            if (fits)
            {
                Add(tensor, new Edit(adapter, module, null, (expert, firstRow)));
            }
            else
            {
                _faults.Add($"{tensor}: the model's tensor is [{string.Join(", ", shape)}], the adapter's stack is of {count} experts [{f}, {k}].");
            }
        }
    }

    private void PlanWeight(MergedAdapter adapter, string module, AdapterTensor[] parts)
    {
        string? name = _names.Find(module + ".weight");
        IReadOnlyList<long> shape;
        if (name is null && CheckpointNames.IsHead(module) && _names.HeadIsTied)
        {
            name = UntiedHead = module + ".weight";
            shape = _tensors[_names.InputEmbedding!].Shape;
        }
        else if (name is null)
        {
            _faults.Add($"{module}: the model has no tensor {module}.weight.");
            return;
        }
        else
        {
            shape = _tensors[name].Shape;
        }

        AdapterTensor? a = parts.FirstOrDefault(p => p.Part is AdapterPart.LoraA or AdapterPart.EmbeddingA);
        AdapterTensor? b = parts.FirstOrDefault(p => p.Part is AdapterPart.LoraB or AdapterPart.EmbeddingB);
        if (a is not null && b is not null)
        {
            long[] update = a.Part == AdapterPart.EmbeddingA || _names.IsTransposed(module)
                ? [a.Info.Shape[1], b.Info.Shape[0]]
                : [b.Info.Shape[0], a.Info.Shape[1]];
            Add(name, shape, adapter, module, null, update);
        }
        else
        {
            AdapterTensor? rows = parts.FirstOrDefault(p => p.Part == AdapterPart.TokenRows);
            Add(name, shape, adapter, module, null, rows is null ? null : [shape[0], rows.Info.Shape[1]]);
        }

        // Trained tokens apply to the embedding and to a head that is tied to it; with a tensor of its own the head stays.
    }

    private void Add(string name, IReadOnlyList<long> shape, MergedAdapter adapter, string module, string? saved, IReadOnlyList<long>? update)
    {
        if (update is not null && !shape.SequenceEqual(update))
        {
            _faults.Add($"{name}: the model's tensor is [{string.Join(", ", shape)}], the adapter's is for [{string.Join(", ", update)}].");
            return;
        }

        Add(name, new Edit(adapter, module, saved, null));
    }

    private void Add(string name, Edit edit)
    {
        if (!_edits.TryGetValue(name, out List<Edit>? edits))
        {
            _edits.Add(name, edits = []);
        }

        edits.Add(edit);
    }

    // With the adapter attached, a change of the embedding leaves the tied head alone. The merged model must answer the
    // same, so the head gets the old weights as a tensor of its own. Trained token rows do reach a tied head.
    private void Untie(IReadOnlyList<MergedAdapter> adapters)
    {
        if (!_names.HeadIsTied || _names.InputEmbedding is not { } embedding || !_edits.TryGetValue(embedding, out List<Edit>? edits))
        {
            return;
        }

        bool onlyRows = edits.TrueForAll(e => e.Saved is null && e.Adapter.Folder.Parts.Where(p => p.Module == e.Module).All(p => p.Part == AdapterPart.TokenRows));
        if (!onlyRows || UntiedHead is not null)
        {
            UntiedHead ??= "lm_head.weight";
        }

        // The rows belong to the untied head as well.
        if (UntiedHead is not null && adapters.Any(a => a.Folder.Parts.Any(p => p.Part == AdapterPart.TokenRows && _names.IsInputEmbedding(p.Module))))
        {
            _faults.Add($"{embedding}: trained token rows together with another change of the embedding or head of a model with tied weights can't be merged. Use them unmerged.");
        }
    }

    /// <summary>One adapter's change of a tensor.</summary>
    /// <param name="Adapter">Whose.</param>
    /// <param name="Module">The module of it.</param>
    /// <param name="Saved">Key of what takes the tensor's place; null for a change by factors or a bias.</param>
    /// <param name="Slice">Of experts: which one's matrix (null for the whole stack), and the row of it where the tensor begins.</param>
    private sealed record Edit(MergedAdapter Adapter, string Module, string? Saved, (int? Expert, long FirstRow)? Slice);
}

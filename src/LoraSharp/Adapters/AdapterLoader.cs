using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Layers;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// Puts a saved adapter onto a model and proves that it is really there: every tensor of the file must find its layer
/// and fit it, every layer the configuration names must find its tensors, and all values must be finite.
/// </summary>
internal sealed class AdapterLoader(AdapterSet set)
{
    private readonly List<string> _faults = [];
    private readonly List<string> _warnings = [];

    private AdapterTensor[] _parts = [];
    private AdapterFolder? _folder;
    private LoraAdapter? _adapter;
    private bool _trainable;
    private int _next;

    /// <summary>Reads, checks and makes all of it.</summary>
    public LoraAdapter Load(AdapterFolder folder, string name, bool trainable)
    {
        Begin(folder, name, trainable);
        while (PlaceNext())
        {
        }

        return Complete();
    }

    /// <summary>
    /// The same in pieces, for one who has other things to do on this thread: this, <see cref="PlaceNext"/> until it says
    /// no, <see cref="Complete()"/>; or <see cref="Abandon"/> at any time.
    /// </summary>
    public void Begin(AdapterFolder folder, string name, bool trainable)
    {
        PeftConfig config = Targets.Resolve(set, folder.Config);
        if (config.InitLoraWeights is "corda" or "lora_ga" or "loftq")
        {
            throw new LoraSharpException(
                $"{folder.Location}: init_lora_weights is \"{config.InitLoraWeights}\", so the factors belong to a base that was changed when they were made, and how is not in the folder. Save it in PEFT with path_initial_model_for_weight_conversion, which makes a plain LoRA of it.");
        }

        _folder = folder;
        _trainable = trainable;
        // In the order of the model, as a new adapter's modules come: a run that goes on from a folder sums its gradients'
        // norm in the order in which the run before it did, and so to the same bits.
        Dictionary<string, int> places = set.Order.Select((path, i) => (path, i)).ToDictionary(p => p.path, p => p.i, StringComparer.Ordinal);
        _parts = [.. folder.Parts.Where(p => p.Part != AdapterPart.TokenRows).OrderBy(p => places.GetValueOrDefault(p.Module, int.MaxValue))];
        _adapter = new LoraAdapter(name, config, trainable) { Metadata = folder.Metadata };
    }

    /// <summary>Makes the next tensor; false when there is none left.</summary>
    public bool PlaceNext()
    {
        if (_next == _parts.Length)
        {
            return false;
        }

        using var scope = NewDisposeScope();
        using var grad = no_grad();
        try
        {
            Place(_adapter!, _folder!, _parts[_next++]);
        }
        catch
        {
            Abandon();
            throw;
        }

        return true;
    }

    /// <summary>Frees what was made so far.</summary>
    public void Abandon() => _adapter?.Dispose();

    /// <summary>Proves that everything is there.</summary>
    public LoraAdapter Complete()
    {
        LoraAdapter adapter = _adapter!;
        AdapterFolder folder = _folder!;
        using var scope = NewDisposeScope();
        using var grad = no_grad();
        try
        {
            TokenRows.Add(set, adapter, _warnings, (path, table, ids) => Rows(folder, path, table, ids));
            Complete(adapter, folder);
            RequireBase(folder);
            Anchor(adapter);
            NoteSilent(adapter);
        }
        catch
        {
            Abandon();
            throw;
        }

        foreach (NamedTensor tensor in adapter.Tensors.Where(_ => _trainable))
        {
            tensor.Value.requires_grad = true;
        }

        try
        {
            ExpertTarget.SpreadAll(set, adapter);
        }
        catch
        {
            adapter.Dispose();
            throw;
        }

        adapter.Warnings = _warnings;
        return adapter;
    }

    private void RequireBase(AdapterFolder folder)
    {
        if (set.Base?.Compare(folder.Metadata) is { } mismatch)
        {
            _warnings.Add(mismatch.Settle(folder.Location, folder.Config.BaseModel, set.AcceptOtherBases));
        }
    }

    private void Place(LoraAdapter adapter, AdapterFolder folder, AdapterTensor part)
    {
        if (set.Experts.TryGetValue(part.Module, out ExpertTarget? experts) && part.Part is AdapterPart.StackA or AdapterPart.StackB)
        {
            PlaceStack(adapter, folder, part, experts!);
            return;
        }

        bool isEmbedding = set.Embeddings.TryGetValue(part.Module, out LoraEmbedding? embedding);
        bool isLinear = set.Linears.TryGetValue(part.Module, out LoraLinear? linear);
        if (!isEmbedding && !isLinear)
        {
            if (part.Part == AdapterPart.Saved && set.Parameters.TryGetValue(part.BaseName, out ModelParameter? parameter))
            {
                if (Read(folder, part, parameter.Live.shape) is { } value)
                {
                    adapter.AddParameter(part.BaseName, value.to(parameter.Live.dtype).DetachFromDisposeScope());
                }
            }
            else
            {
                _faults.Add($"{part.Key} {part.Info.ShapeText}: the model has no module {part.Module}{(part.Part == AdapterPart.Saved ? " with such a tensor" : string.Empty)}.");
            }

            return;
        }

        (long k, long f) = isEmbedding ? (embedding!.Spec.Count, embedding.Spec.Size) : (linear!.Spec.InFeatures, linear.Spec.OutFeatures);
        int rank = PeftMatching.RankOf(adapter.Config, part.Module);
        long[] stored = isEmbedding ? [k, f] : linear!.Spec.IsConv1D ? [k, f] : [f, k];
        long[]? expected = (part.Part, isEmbedding) switch
        {
            (AdapterPart.LoraA, false) or (AdapterPart.EmbeddingA, true) => [rank, k],
            (AdapterPart.LoraB, false) or (AdapterPart.EmbeddingB, true) => [f, rank],
            (AdapterPart.LoraBBias, false) or (AdapterPart.Magnitude, _) => [f],
            (AdapterPart.BaseBias, false) when linear!.Spec.HasBias => [f],
            (AdapterPart.BaseWeight, _) => stored,
            (AdapterPart.Saved, _) when part.Key.EndsWith(".weight", StringComparison.Ordinal) => stored,
            (AdapterPart.Saved, false) when part.Key.EndsWith(".bias", StringComparison.Ordinal) && linear!.Spec.HasBias => [f],
            _ => null,
        };
        if (expected is null)
        {
            _faults.Add($"{part.Key} {part.Info.ShapeText}: {part.Module} is {(isEmbedding ? "an embedding" : linear!.Spec.HasBias ? "a linear layer" : "a linear layer without bias")}, which has no place for it.");
            return;
        }

        if (Read(folder, part, expected) is not { } tensor)
        {
            return;
        }

        bool transposed = ReferenceEquals(expected, stored) && isLinear && linear!.Spec.IsConv1D;
        // Frozen, B lies as its transpose, which is what multiplying a few rows with it reads.
        bool isFrozenB = part.Part == AdapterPart.LoraB && !_trainable;
        bool isFrozenFactor = part.Part is AdapterPart.LoraA or AdapterPart.LoraB && !_trainable;
        // Not where a part of the base was moved into the factors: rounded, they would no longer cancel it.
        bool isRounded = set.RoundFactors && isFrozenFactor && !adapter.Config.ChangesBase;
        Tensor factor = isRounded ? tensor.to(ScalarType.BFloat16).to(ScalarType.Float32) : tensor;
        Tensor owned = (transposed ? factor.t().contiguous() : isFrozenB ? factor.t().contiguous().t() : factor).DetachFromDisposeScope();
        AdapterModule module = adapter.Module(part.Module, isEmbedding);
        module.IsConv1D = isLinear && linear!.Spec.IsConv1D;
        switch (part.Part)
        {
            case AdapterPart.LoraA or AdapterPart.EmbeddingA:
                module.A = owned;
                module.Scaling = PeftMatching.ScalingOf(adapter.Config, part.Module);
                break;
            case AdapterPart.LoraB or AdapterPart.EmbeddingB:
                module.B = owned;
                break;
            case AdapterPart.LoraBBias:
                module.BBias = owned;
                break;
            case AdapterPart.Magnitude:
                module.Magnitude = owned;
                break;
            case AdapterPart.BaseBias:
                module.Bias = owned;
                break;
            case AdapterPart.Saved when expected.Length == 1:
                module.Bias = owned;
                break;
            default:
                module.Weight = owned;
                module.WeightIsBase = part.Part == AdapterPart.BaseWeight && EqualsBase(owned, embedding, linear);
                break;
        }

        if (isFrozenFactor && (isRounded || part.Info.Type == ElementType.BF16) && module is { A: not null, B: not null })
        {
            module.KeepBfloat16();
        }
    }

    private void PlaceStack(LoraAdapter adapter, AdapterFolder folder, AdapterTensor part, ExpertTarget target)
    {
        (long[] a, long[] b) = target.Shapes(PeftMatching.RankOf(adapter.Config, part.Module));
        long[] expected = part.Part == AdapterPart.StackA ? a : b;
        if (Read(folder, part, expected) is not { } tensor)
        {
            return;
        }

        AdapterModule module = adapter.Stack(target);
        if (part.Part == AdapterPart.StackA)
        {
            module.A = tensor.DetachFromDisposeScope();
        }
        else
        {
            module.B = tensor.DetachFromDisposeScope();
        }
    }

    private static bool EqualsBase(Tensor weight, LoraEmbedding? embedding, LoraLinear? linear)
    {
        using Tensor dense = embedding is null ? linear!.DenseWeight() : embedding.Weight.alias();
        using Tensor same = weight.to(dense.dtype);
        return same.Equals(dense);
    }

    private Tensor Rows(AdapterFolder folder, string path, Tensor table, Tensor ids)
    {
        AdapterTensor? part = folder.Parts.FirstOrDefault(p => p.Part == AdapterPart.TokenRows && p.Module == path);
        if (part is null)
        {
            _faults.Add($"{path}: trainable_token_indices names rows, but the file has no {AdapterTensor.KeyOf(path, AdapterPart.TokenRows)}.");
            return table.index_select(0, ids).to(ScalarType.Float32);
        }

        return Read(folder, part, [ids.shape[0], table.shape[1]]) ?? table.index_select(0, ids).to(ScalarType.Float32);
    }

    // float32 on the model's device, in memory of its own; null when a fault was noted.
    private Tensor? Read(AdapterFolder folder, AdapterTensor part, long[] expected)
    {
        if (!part.Info.Shape.SequenceEqual(expected))
        {
            _faults.Add($"{part.Key}: expected [{string.Join(", ", expected)}], found {part.Info.ShapeText}.");
            return null;
        }

        using Tensor stored = TensorBytes.ToTensor(folder.Tensors.Read(part.Key), null, CPU);
        Tensor tensor = stored.to(ScalarType.Float32, set.Device, copy: true);
        using Tensor finite = tensor.isfinite().all();
        if (!finite.item<bool>())
        {
            _faults.Add($"{part.Key}: holds NaN or infinite values.");
            return null;
        }

        return tensor;
    }

    // What the configuration promises must be there, and the other way round.
    private void Complete(LoraAdapter adapter, AdapterFolder folder)
    {
        foreach (string path in set.Order)
        {
            bool has = adapter.Modules.TryGetValue(path, out AdapterModule? module) && module.A is not null;
            bool wanted = PeftMatching.IsTarget(adapter.Config, path);
            bool inFile = folder.Parts.Any(p => p.Module == path && p.Part is AdapterPart.LoraA or AdapterPart.EmbeddingA);
            if (wanted && !has && !inFile)
            {
                _faults.Add($"{path}: {PeftConfig.FileName} targets it, but the file has no factors for it.");
            }
            else if (has && !wanted)
            {
                _faults.Add($"{path}: the file has factors for it, but {PeftConfig.FileName} does not target it, so PEFT would leave them out.");
            }
        }

        foreach (string path in set.Experts.Keys.Where(p => TargetParameters.IsTarget(adapter.Config, p) && !folder.Parts.Any(f => f.Module == p && f.Part == AdapterPart.StackA)))
        {
            _faults.Add($"{path}: target_parameters names it, but the file has no factors for it.");
        }

        foreach (AdapterTensor part in folder.Parts.Where(p => p.Part == AdapterPart.TokenRows && (!adapter.Modules.TryGetValue(p.Module, out AdapterModule? m) || m.TokenRows is null)))
        {
            _faults.Add($"{part.Key} {part.Info.ShapeText}: trainable_token_indices does not name {part.Module}.");
        }

        if (_faults.Count == 0)
        {
            return;
        }

        bool nothing = !adapter.Modules.Values.Any(m => m.A is not null || m.Weight is not null || m.TokenRows is not null) && adapter.Parameters.Count == 0;
        string layers = nothing ? $" The model's linear layers are {string.Join(", ", set.Linears.Keys.Take(3))} and so on." : string.Empty;
        throw new LoraSharpException(
            $"{folder.Location}: the adapter does not fit this model ({_faults.Count} faults{(nothing ? ", not one of its modules matches" : string.Empty)}):\n  {string.Join("\n  ", _faults.Take(20))}{(_faults.Count > 20 ? $"\n  ... and {_faults.Count - 20} more" : string.Empty)}\n" +
            $"Check that it was made for this base{(adapter.Config.BaseModel is { } known ? $" (it names {known})" : string.Empty)}.{layers}");
    }

    // PEFT takes the initial factors out of the base when it loads such an adapter, and so they are computed again.
    private void Anchor(LoraAdapter adapter)
    {
        string init = adapter.Config.InitLoraWeights;
        if (!adapter.Config.ChangesBase)
        {
            return;
        }

        using var generator = new Generator(0, CPU);
        var initializer = new FactorInitializer(generator, init);
        foreach (AdapterModule module in adapter.Modules.Values.Where(m => m.A is not null && !m.IsEmbedding))
        {
            initializer.FromWeight(module, set.Linears[module.Name], module.Rank);
        }

        _warnings.Add($"The adapter was made with {init} and saved as it is, so its starting point was computed again from this base. Saved by `lora`, it becomes a plain LoRA of twice the rank.");
    }

    private void NoteSilent(LoraAdapter adapter)
    {
        AdapterModule[] factors = [.. adapter.Modules.Values.Where(m => m.B is not null)];
        string[] silent = [.. factors.Where(m =>
        {
            using Tensor zero = (m.IsEmbedding ? m.A! : m.B!).count_nonzero();
            return zero.item<long>() == 0;
        }).Select(m => m.Name)];
        if (silent.Length > 0)
        {
            _warnings.Add(silent.Length == factors.Length
                ? "B is zero in every module: the factors change nothing. Was the adapter saved before it was trained?"
                : $"B is zero in {silent.Length} of {factors.Length} modules, which therefore change nothing: {string.Join(", ", silent.Take(5))}{(silent.Length > 5 ? ", ..." : string.Empty)}.");
        }
    }
}

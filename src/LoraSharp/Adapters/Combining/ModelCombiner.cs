using LoraSharp.Adapters.Merging;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Adapters.Combining;

/// <summary>How whole models become one.</summary>
public enum ModelMethod
{
    /// <summary>Σ wᵢ·Wᵢ.</summary>
    Linear,

    /// <summary>Along the great circle between two models' tensors (Shoemake 1985); the second weight over the sum is the position.</summary>
    Slerp,

    /// <summary>Base + Σ wᵢ·(Wᵢ − Base) (Ilharco et al. 2023).</summary>
    TaskArithmetic,

    /// <summary>TIES on the differences from the base (Yadav et al. 2023).</summary>
    Ties,

    /// <summary>DARE on the differences, then the weighted sum (Yu et al. 2024).</summary>
    DareLinear,

    /// <summary>DARE on the differences, then the election of signs.</summary>
    DareTies,
}

/// <summary>Settings of <see cref="ModelCombiner"/>.</summary>
public sealed record ModelCombineOptions
{
    /// <summary>How; default <see cref="ModelMethod.Linear"/>.</summary>
    public ModelMethod Method { get; init; } = ModelMethod.Linear;

    /// <summary>Share of each difference that is kept by TIES and DARE, 0 to 1.</summary>
    public double? Density { get; init; }

    /// <summary>Seed of DARE; default 0.</summary>
    public long Seed { get; init; }

    /// <summary>Whether TIES elects signs by number; default false.</summary>
    public bool ByFrequency { get; init; }

    /// <summary>Whether weights are divided by their sum first; default false.</summary>
    public bool Normalize { get; init; }

    /// <summary>Whether the method works on differences from a base.</summary>
    public bool NeedsBase => Method is not (ModelMethod.Linear or ModelMethod.Slerp);

    /// <summary>The method of a name such as <c>task-arithmetic</c>.</summary>
    public static ModelMethod Parse(string name) => (name ?? string.Empty).Replace('_', '-') switch
    {
        "linear" => ModelMethod.Linear,
        "slerp" => ModelMethod.Slerp,
        "task-arithmetic" => ModelMethod.TaskArithmetic,
        "ties" => ModelMethod.Ties,
        "dare" or "dare-linear" => ModelMethod.DareLinear,
        "dare-ties" => ModelMethod.DareTies,
        _ => throw new LoraSharpException($"There is no method '{name}' for whole models. Methods: linear, slerp, task-arithmetic, ties, dare-linear, dare-ties."),
    };
}

/// <summary>Makes one model of several of one shape, tensor by tensor, in float32 whatever the storage.</summary>
public static class ModelCombiner
{
    static ModelCombiner() => NativeRuntime.EnsureLoaded();

    /// <summary>Combines and writes a model folder with the first model's configuration, tokenizer and types.</summary>
    /// <param name="models">At least one, with weights.</param>
    /// <param name="baseModel">What the differences are from, for the methods that need it.</param>
    /// <param name="options">How.</param>
    /// <param name="output">Must not exist, or be empty.</param>
    /// <param name="progress">Told tensors written and their number.</param>
    public static void Combine(IReadOnlyList<(ModelSource Model, double Weight)> models, ModelSource? baseModel, ModelCombineOptions options, string output, Action<int, int>? progress = null)
    {
        ArgumentNullException.ThrowIfNull(models);
        ArgumentNullException.ThrowIfNull(options);
        OutputFolder.RequireFree(output);
        Check(models, baseModel, options);
        double sum = models.Sum(m => m.Weight);
        double[] weights = [.. models.Select(m => options.Normalize ? m.Weight / sum : m.Weight)];
        using var grad = no_grad();
        using var generator = new Generator((ulong)options.Seed, CPU);
        CheckpointCopy.Write(models[0].Model, output, new CopyPlan
        {
            Type = info => info.Type,
            Changes = name => AdapterMerger.IsFloat(models[0].Model.Tensors.Tensors[name].Type),
            Value = (name, first) =>
            {
                Tensor[] values = [first, .. models.Skip(1).Select(m => Float(m.Model, name))];
                return options.Method switch
                {
                    ModelMethod.Linear => new TaskVectors(TaskMethod.Linear, 1, false, generator).Combine(values, weights),
                    ModelMethod.Slerp => Slerp(values[0], values[1], weights[1] / (weights[0] + weights[1])),
                    _ => Differences(values, weights, Float(baseModel!, name), options, generator),
                };
            },
            Progress = progress,
        });
    }

    private static Tensor Differences(Tensor[] values, double[] weights, Tensor origin, ModelCombineOptions options, Generator generator)
    {
        TaskMethod method = options.Method switch
        {
            ModelMethod.Ties => TaskMethod.Ties,
            ModelMethod.DareLinear => TaskMethod.DareLinear,
            ModelMethod.DareTies => TaskMethod.DareTies,
            _ => TaskMethod.Linear,
        };
        return origin + new TaskVectors(method, options.Density ?? 1, options.ByFrequency, generator).Combine([.. values.Select(v => v - origin)], weights);
    }

    // Directions turn at an even rate, lengths go straight; nearly parallel tensors are mixed straight.
    private static Tensor Slerp(Tensor a, Tensor b, double position)
    {
        double lengths = linalg.norm(a).item<float>() * (double)linalg.norm(b).item<float>();
        double cosine = lengths > 0 ? Math.Clamp((a * b).sum(ScalarType.Float64).item<double>() / lengths, -1, 1) : 1;
        if (Math.Abs(cosine) > 0.9995)
        {
            return (a * (1 - position)) + (b * position);
        }

        double angle = Math.Acos(cosine);
        return (a * (Math.Sin((1 - position) * angle) / Math.Sin(angle))) + (b * (Math.Sin(position * angle) / Math.Sin(angle)));
    }

    private static Tensor Float(ModelSource model, string name)
    {
        using Tensor stored = TensorBytes.ToTensor(model.Tensors.Read(name), null, CPU);
        return stored.to(ScalarType.Float32, copy: true);
    }

    private static void Check(IReadOnlyList<(ModelSource Model, double Weight)> models, ModelSource? baseModel, ModelCombineOptions options)
    {
        var faults = new List<string>();
        if (models.Count == 0)
        {
            throw new LoraSharpException("No models were given to combine.");
        }

        faults.AddRange(models.Where(m => !double.IsFinite(m.Weight)).Select(m => $"{m.Model.Location}: the weight must be a number, found {m.Weight}"));
        if (options.Method == ModelMethod.Slerp && models.Count != 2)
        {
            faults.Add($"slerp goes between two models, found {models.Count}");
        }

        if (options.NeedsBase && baseModel is null)
        {
            faults.Add("this method works on differences from a base; name it with --base");
        }

        if (options.Method is ModelMethod.Ties or ModelMethod.DareLinear or ModelMethod.DareTies && options.Density is null)
        {
            faults.Add("density: this method needs one from 0 to 1, e.g. --density 0.5");
        }

        if (options.Density is < 0 or > 1 or double.NaN)
        {
            faults.Add($"density: expected 0 to 1, found {options.Density}");
        }

        if (options.Normalize && Math.Abs(models.Sum(m => m.Weight)) < 1e-9)
        {
            faults.Add("the weights sum to 0, so they can't be normalised");
        }

        IReadOnlyDictionary<string, TensorInfo> first = models[0].Model.Tensors.Tensors;
        foreach (ModelSource other in models.Skip(1).Select(m => m.Model).Concat(baseModel is null ? [] : [baseModel]))
        {
            foreach ((string name, TensorInfo info) in first)
            {
                if (!other.Tensors.Tensors.TryGetValue(name, out TensorInfo? found) || !found.Shape.SequenceEqual(info.Shape))
                {
                    faults.Add($"{name} is {info.ShapeText} in {models[0].Model.Location} and {(found is null ? "missing" : found.ShapeText)} in {other.Location}");
                }
            }

            faults.AddRange(other.Tensors.Tensors.Keys.Except(first.Keys).Select(n => $"{n} is only in {other.Location}"));
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException($"These models can't be combined:\n  {string.Join("\n  ", faults.Take(20))}{(faults.Count > 20 ? $"\n  ... and {faults.Count - 20} more" : string.Empty)}");
        }
    }
}

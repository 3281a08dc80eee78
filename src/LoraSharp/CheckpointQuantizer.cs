using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp;

/// <summary>An adapter that is made together with the quantised base, so that both start near the original model.</summary>
/// <param name="Kind">LoftQ or QPiSSA.</param>
/// <param name="Adapter">Rank, alpha, targets; its own initialisation is not read.</param>
/// <param name="Iterations">Rounds of quantising and decomposing.</param>
/// <param name="Seed">Of the randomised decomposition of large matrices.</param>
public sealed record LowRankStartOptions(LowRankStartKind Kind, LoraOptions Adapter, int Iterations = 5, long Seed = 42);

/// <summary>What quantising did.</summary>
/// <param name="Matrices">Matrices in 4 bits.</param>
/// <param name="Weights">Their weights.</param>
/// <param name="Bytes">Bytes of their codes and scales.</param>
/// <param name="DenseBytes">Bytes they took before.</param>
/// <param name="OtherBytes">Bytes of everything that was left alone.</param>
/// <param name="Error">‖W − Ŵ‖ / ‖W‖ over all quantised matrices; with a LoftQ or QPiSSA adapter, with it added.</param>
/// <param name="PlainError">The same without such an adapter.</param>
/// <param name="WorstLayer">The layer with the largest error.</param>
/// <param name="WorstError">Its error.</param>
/// <param name="Kept">Linear layers that were left alone.</param>
/// <param name="AdapterFolder">Where the LoftQ or QPiSSA adapter went; null for none.</param>
public sealed record QuantizationReport(
    int Matrices,
    long Weights,
    long Bytes,
    long DenseBytes,
    long OtherBytes,
    double Error,
    double PlainError,
    string WorstLayer,
    double WorstError,
    IReadOnlyList<string> Kept,
    string? AdapterFolder);

/// <summary>
/// Turns a checkpoint into a 4-bit one that bitsandbytes and transformers open. The model itself tells which of its
/// tensors are linear layers; they are quantised one at a time, so that memory holds the result and two matrices.
/// </summary>
public static class CheckpointQuantizer
{
    /// <summary>Name of the folder, inside the output, of a LoftQ or QPiSSA adapter.</summary>
    public const string AdapterFolderName = "adapter";

    // A full decomposition costs O(n³): 2 s at 1,024 on two cores, a minute at 4,096.
    private const long LargestExactSvd = 1024;

    /// <summary>Quantises and writes a checkpoint.</summary>
    /// <param name="source">A model that is not quantised.</param>
    /// <param name="folder">The output; must not be the source.</param>
    /// <param name="options">Type, block size, double quantisation, layers to leave alone.</param>
    /// <param name="start">LoftQ or QPiSSA: writes the adapter too; null for none.</param>
    /// <param name="modelType">Treat the model as this family; null: what it says.</param>
    /// <param name="progress">Told matrices done and their number.</param>
    /// <exception cref="LoraSharpException">The model is quantised already, has no linear layers, or holds values that are not finite.</exception>
    public static QuantizationReport Quantize(ModelSource source, string folder, QuantizationOptions options, LowRankStartOptions? start = null, string? modelType = null, Action<int, int>? progress = null)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        start?.Adapter.Validate();
        NativeRuntime.EnsureLoaded();
        if (source.Config.ContainsKey("quantization_config"))
        {
            throw new LoraSharpException($"{source.Location}: the checkpoint is quantised already. Expected one in float32, bfloat16 or float16.");
        }

        if (Path.GetFullPath(folder) == Path.GetFullPath(source.Location))
        {
            throw new LoraSharpException($"{folder}: the output is the model itself. Choose another folder.");
        }

        IReadOnlyList<LinearSpec> linears = LinearLayers(source, modelType);
        Dictionary<LinearSpec, string> names = QuantizedNames(source, linears, options);
        if (names.Count == 0)
        {
            throw new LoraSharpException($"{source.Location}: no linear layer is left to be quantised. Check the skipped modules.");
        }

        Dictionary<string, FourBitWeight> weights = new(StringComparer.Ordinal);
        Dictionary<string, LowRankStart> starts = new(StringComparer.Ordinal);
        try
        {
            var sums = new ErrorSums();
            foreach ((LinearSpec spec, string name) in names)
            {
                TensorData data = source.Tensors.Read(name);
                QuantizeOne(data, spec, name, options, start, weights, starts, sums);
                TensorBytes.ReleasePages(data);
                progress?.Invoke(weights.Count, names.Count);
            }

            LinearSpec[] kept = [.. linears.Where(s => !names.ContainsKey(s))];
            BitsAndBytesWriter.Write(source, weights, [.. kept.Select(k => k.Name)], kept.FirstOrDefault(k => k.IsOutputHead)?.Name, options, folder);
            string? adapter = start is null ? null : WriteAdapter(folder, start, starts, modelType);
            return sums.Report(source, names.Values, weights, [.. kept.Select(k => k.Name)], adapter);
        }
        finally
        {
            foreach (IDisposable owned in weights.Values.Concat<IDisposable>(starts.Values))
            {
                owned.Dispose();
            }
        }
    }

    /// <summary>The linear layers of a model, in order.</summary>
    internal static IReadOnlyList<LinearSpec> LinearLayers(ModelSource source, string? modelType)
    {
        // In the checkpoint's own type a layer is laid over the map and costs nothing.
        ElementType type = source.Tensors.Tensors.Values.Where(t => t.Shape.Count == 2).Select(t => t.Type).FirstOrDefault(ElementType.F32);
        ScalarType dtype = type is ElementType.BF16 or ElementType.F16 ? type.ToScalarType() : ScalarType.Float32;
        using CausalLanguageModel model = ModelLoader.Load(source, new DenseLinearFactory(), dtype, CPU, modelType);
        return [.. model.Linears.Select(l => l.Spec)];
    }

    /// <summary>Those of the layers that are quantised, with their matrices' names in the checkpoint.</summary>
    internal static Dictionary<LinearSpec, string> QuantizedNames(ModelSource source, IEnumerable<LinearSpec> linears, QuantizationOptions options) =>
        linears.Where(s => IsQuantized(s, options)).ToDictionary(s => s, s => StoredName(source, s.Name + ".weight"));

    private static bool IsQuantized(LinearSpec spec, QuantizationOptions options) =>
        !spec.IsOutputHead && !spec.KeepPrecision && spec.TiedTo is null && !options.Skips(spec.Name);

    /// <summary>A checkpoint of the bare decoder lacks the first elements of the paths that its model uses.</summary>
    private static string StoredName(ModelSource source, string name)
    {
        for (string rest = name; ; rest = rest[(rest.IndexOf('.', StringComparison.Ordinal) + 1)..])
        {
            if (source.Tensors.Tensors.ContainsKey(rest))
            {
                return rest;
            }

            if (!rest.Contains('.', StringComparison.Ordinal))
            {
                throw new LoraSharpException($"{source.Location}: has no tensor {name}.");
            }
        }
    }

    private static void QuantizeOne(TensorData data, LinearSpec spec, string name, QuantizationOptions options, LowRankStartOptions? start, Dictionary<string, FourBitWeight> weights, Dictionary<string, LowRankStart> starts, ErrorSums sums)
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Tensor stored = TensorBytes.ToTensor(data, null, CPU);
        Tensor matrix = spec.IsConv1D ? stored.t().contiguous() : stored;
        Tensor w = matrix.to(ScalarType.Float32);
        double square = Math.Pow(w.norm().item<float>(), 2);
        if (start is not null && start.Adapter.Rank <= Math.Min(w.shape[0], w.shape[1]))
        {
            double scaling = start.Adapter.Alpha / (start.Adapter.UseRsLora ? Math.Sqrt(start.Adapter.Rank) : start.Adapter.Rank);
            using var generator = new Generator((ulong)start.Seed, CPU);
            LowRankStart found = LowRankStart.Find(start.Kind, matrix, name, options, start.Adapter.Rank, scaling, start.Iterations, (m, r) => Decompose(m, r, generator));
            found.A.DetachFromDisposeScope();
            found.B.DetachFromDisposeScope();
            starts.Add(spec.Name, found);
            weights.Add(name, found.Weight);
            sums.Add(name, square, found.PlainError, found.Error);
            return;
        }

        FourBitWeight weight = FourBitWeight.Quantize(matrix, name, options, CPU);
        weights.Add(name, weight);
        using Tensor back = weight.Dequantize(ScalarType.Float32);
        double error = (w - back).norm().item<float>() / Math.Max(Math.Sqrt(square), double.Epsilon);
        sums.Add(name, square, error, error);
    }

    private static (Tensor U, Tensor S, Tensor Vt) Decompose(Tensor matrix, int rank, Generator generator)
    {
        if (Math.Min(matrix.shape[0], matrix.shape[1]) > LargestExactSvd)
        {
            (Tensor u, Tensor s, Tensor vt) = LowRankSvd.Randomised(matrix, rank + 8, 4, generator);
            return (u.narrow(1, 0, rank), s.narrow(0, 0, rank), vt.narrow(0, 0, rank));
        }

        (Tensor left, Tensor values, Tensor right) = linalg.svd(matrix, fullMatrices: false);
        return (left.narrow(1, 0, rank), values.narrow(0, 0, rank), right.narrow(0, 0, rank));
    }

    /// <summary>Builds the adapter on the checkpoint just written, as any adapter is, and gives it the factors found.</summary>
    private static string WriteAdapter(string folder, LowRankStartOptions start, Dictionary<string, LowRankStart> starts, string? modelType)
    {
        using ModelSource written = BitsAndBytesSource.Unwrap(ModelSource.OpenFolder(folder));
        using var adapters = new AdapterSet();
        using var factory = new Nf4LinearFactory(null, new DenseLinearFactory());
        using CausalLanguageModel model = ModelLoader.Load(written, new LoraLinearFactory(adapters, factory), ScalarType.Float32, CPU, modelType);
        LoraAdapter adapter = adapters.Create(start.Adapter with { Init = "true" }, start.Seed, baseModel: folder);
        using var none = no_grad();
        foreach (AdapterModule module in adapter.Modules.Values.Where(m => m.A is not null && starts.ContainsKey(m.Name)))
        {
            module.A!.copy_(starts[module.Name].A);
            module.B!.copy_(starts[module.Name].B);
        }

        string target = Path.Combine(folder, AdapterFolderName);
        AdapterWriter.Write(adapter, target, adapters.Base);
        return target;
    }

    private sealed class ErrorSums
    {
        private double _all;
        private double _plain;
        private double _final;
        private string _worst = string.Empty;
        private double _worstError = -1;

        public void Add(string name, double square, double plain, double error)
        {
            _all += square;
            _plain += square * plain * plain;
            _final += square * error * error;
            if (error > _worstError)
            {
                (_worst, _worstError) = (name, error);
            }
        }

        public QuantizationReport Report(ModelSource source, IEnumerable<string> quantized, Dictionary<string, FourBitWeight> weights, IReadOnlyList<string> kept, string? adapter)
        {
            long dense = quantized.Sum(n => source.Tensors.Tensors[n].ByteCount);
            long all = source.Tensors.Tensors.Values.Sum(t => t.ByteCount);
            return new QuantizationReport(weights.Count, weights.Values.Sum(w => w.Rows * w.Columns), weights.Values.Sum(w => w.Bytes), dense, all - dense,
                Math.Sqrt(_final / _all), Math.Sqrt(_plain / _all), _worst, _worstError, kept, adapter);
        }
    }
}

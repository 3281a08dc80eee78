using System.Globalization;
using LoraSharp.Adapters.Initialization;
using LoraSharp.Formats;
using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// First values of A and B. Random numbers come from one generator on the CPU, layer after layer, so that a seed gives
/// the same adapter on every device.
/// </summary>
/// <param name="generator">On the CPU.</param>
/// <param name="init">PEFT's name of the initialisation.</param>
/// <param name="directions">For eva.</param>
internal sealed class FactorInitializer(Generator generator, string init, InputDirections? directions = null)
{
    /// <summary>A [r, k] and B [f, r] of a linear layer; for PiSSA and OLoRA what they take out of W as well.</summary>
    public void Linear(AdapterModule module, LoraLinear layer, int rank, Device device)
    {
        using var scope = NewDisposeScope();
        (long k, long f) = (layer.Spec.InFeatures, layer.Spec.OutFeatures);
        if (init.StartsWith("pissa", StringComparison.Ordinal) || init == "olora")
        {
            FromWeight(module, layer, rank);
            return;
        }

        if (directions?.Factor(layer.Spec.Name, rank) is { } seen)
        {
            (module.A, module.B) = (Own(seen, device), Own(zeros(f, rank), device));
            return;
        }

        (Tensor a, Tensor b) = init switch
        {
            // kaiming_uniform_ with a = sqrt(5): bound = sqrt(6 / ((1 + 5) k)).
            "true" or "eva" => (empty(rank, k).uniform_(-1 / Math.Sqrt(k), 1 / Math.Sqrt(k), generator), zeros(f, rank)),
            // What nn.Linear gives both of them.
            "false" => (empty(rank, k).uniform_(-1 / Math.Sqrt(k), 1 / Math.Sqrt(k), generator), empty(f, rank).uniform_(-1 / Math.Sqrt(rank), 1 / Math.Sqrt(rank), generator)),
            "gaussian" => (empty(rank, k).normal_(0, 1.0 / rank, generator), zeros(f, rank)),
            "orthogonal" => Orthogonal(rank, k, f),
            _ => throw new LoraSharpException($"Initialisation '{init}' is not known."),
        };
        module.A = Own(a, device);
        module.B = Own(b, device);
    }

    /// <summary>A [E·r, k] and B [f, r·E] of a stack of experts.</summary>
    public void Stack(AdapterModule module, ExpertTarget target, int rank, Device device)
    {
        using var scope = NewDisposeScope();
        (long[] a, long[] b) = target.Shapes(rank);
        module.A = Own(init == "gaussian" ? empty(a).normal_(0, 1.0 / rank, generator) : Uniform(a, target.InFeatures), device);
        module.B = Own(init == "false" ? Uniform(b, target.Count * rank) : zeros(b), device);
    }

    /// <summary>A [r, v] zero and B [d, r] normal, whatever the initialisation of linear layers, as in PEFT.</summary>
    public void Embedding(AdapterModule module, EmbeddingSpec spec, int rank, Device device)
    {
        using var scope = NewDisposeScope();
        module.A = Own(init == "false" ? empty(rank, spec.Count).normal_(0, 1, generator) : zeros(rank, spec.Count), device);
        module.B = Own(empty(spec.Size, rank).normal_(0, 1, generator), device);
    }

    /// <summary>
    /// PiSSA (Meng et al. 2024): B0·A0 is the best rank-r approximation of W, split by the root of the singular values.
    /// OLoRA (Büyükakyüz 2024): the first r columns of Q and rows of R of W. Either way W − s·B0·A0 stays frozen, here
    /// as W and a frozen −s·B0·A0 beside the trained s·B·A.
    /// </summary>
    public void FromWeight(AdapterModule module, LoraLinear layer, int rank)
    {
        using Tensor dense = layer.DenseWeight();
        using Tensor weight = dense.to(ScalarType.Float32);
        FromWeight(module, weight, rank);
    }

    /// <summary>The same from W [f, k] itself, float32.</summary>
    public void FromWeight(AdapterModule module, Tensor weight, int rank)
    {
        using var scope = NewDisposeScope();
        long largest = Math.Min(weight.shape[0], weight.shape[1]);
        if (rank > largest)
        {
            throw new LoraSharpException($"{module.Name}: init {init} needs a rank of at most {largest}, found {rank}.");
        }

        Tensor a, b;
        if (init == "olora")
        {
            (Tensor q, Tensor r) = linalg.qr(weight);
            (a, b) = (r.narrow(0, 0, rank), q.narrow(1, 0, rank));
        }
        else
        {
            (Tensor u, Tensor s, Tensor vt) = init == "pissa"
                ? linalg.svd(weight, fullMatrices: false)
                : LowRankSvd.Randomised(weight, rank, int.Parse(init["pissa_niter_".Length..], CultureInfo.InvariantCulture), generator);
            Tensor root = (s.narrow(0, 0, rank) / module.Scaling).sqrt();
            (a, b) = (vt.narrow(0, 0, rank) * root.unsqueeze(1), u.narrow(1, 0, rank) * root.unsqueeze(0));
        }

        module.AnchorA = Own(a, weight.device);
        module.AnchorB = Own(b, weight.device);
        module.A ??= module.AnchorA.clone().DetachFromDisposeScope();
        module.B ??= module.AnchorB.clone().DetachFromDisposeScope();
    }

    // Odd and even rows of one orthogonal matrix, so that B·A starts at zero while neither factor is
    // (datta0, "Rethink LoRA initialisation", as PEFT has it).
    private (Tensor A, Tensor B) Orthogonal(int rank, long k, long f)
    {
        (Tensor q, _) = linalg.qr(empty(rank, rank).normal_(0, 1, generator));
        Tensor pairs = q.view(rank / 2, 2, rank);
        Tensor a = empty(k, rank / 2).normal_(0, 1, generator).mm(pairs.select(1, 0)).t() / 10;
        Tensor b = empty(rank / 2, f).normal_(0, 1, generator).t().mm(pairs.select(1, 1)) / 10;
        return (a, b);
    }

    // What nn.Linear starts with: kaiming_uniform_ with a = √5.
    private Tensor Uniform(long[] shape, long inputs) => empty(shape).uniform_(-1 / Math.Sqrt(inputs), 1 / Math.Sqrt(inputs), generator);

    private static Tensor Own(Tensor tensor, Device device) =>
        tensor.to(ScalarType.Float32, device).contiguous().DetachFromDisposeScope();
}

using LoraSharp.Kernels.Cpu;
using static TorchSharp.torch;

namespace LoraSharp.Layers;

/// <summary>Activation functions, by the names that <c>config.json</c> uses.</summary>
public enum Activation
{
    /// <summary>x·sigmoid(x): <c>silu</c>, <c>swish</c>.</summary>
    Silu,

    /// <summary>x·Φ(x), exact: <c>gelu</c>.</summary>
    Gelu,

    /// <summary>The tanh approximation: <c>gelu_new</c>, <c>gelu_pytorch_tanh</c>, <c>gelu_fast</c>.</summary>
    GeluTanh,

    /// <summary>max(x, 0).</summary>
    Relu,

    /// <summary>max(x, 0)² (Nemotron).</summary>
    ReluSquared,

    /// <summary>x·sigmoid(1.702·x) (Hendrycks &amp; Gimpel 2016, section 2): <c>quick_gelu</c>.</summary>
    QuickGelu,

    /// <summary>x·tanh(ln(1 + eˣ)) (Misra 2019): <c>mish</c>.</summary>
    Mish,

    /// <summary>min(max(x, 0), 6).</summary>
    Relu6,

    /// <summary>tanh(x).</summary>
    Tanh,

    /// <summary>1 / (1 + e⁻ˣ).</summary>
    Sigmoid,

    /// <summary>x itself: <c>linear</c>.</summary>
    Identity,
}

/// <summary>What <see cref="Activation"/> does.</summary>
public static class Activations
{
    /// <summary>The activation of this name, or null.</summary>
    public static Activation? Parse(string name) => name switch
    {
        "silu" or "swish" => Activation.Silu,
        "gelu" or "gelu_python" => Activation.Gelu,
        "gelu_new" or "gelu_pytorch_tanh" or "gelu_fast" or "gelu_accurate" => Activation.GeluTanh,
        "relu" => Activation.Relu,
        "relu2" => Activation.ReluSquared,
        "quick_gelu" => Activation.QuickGelu,
        "mish" => Activation.Mish,
        "relu6" => Activation.Relu6,
        "tanh" => Activation.Tanh,
        "sigmoid" => Activation.Sigmoid,
        "linear" => Activation.Identity,
        _ => null,
    };

    /// <summary>x of any shape → the same shape; a new tensor.</summary>
    public static Tensor Apply(this Activation activation, Tensor x)
    {
        ArgumentNullException.ThrowIfNull(x);
        switch (activation)
        {
            case Activation.Silu: return nn.functional.silu(x);
            case Activation.Gelu: return nn.functional.gelu(x);
            case Activation.GeluTanh: return GeluTanh(x);
            case Activation.Relu: return nn.functional.relu(x);
            case Activation.QuickGelu: return Product(x, t => (t * 1.702).sigmoid());
            case Activation.Mish: return Product(x, t => nn.functional.softplus(t).tanh());
            case Activation.Relu6: return x.clamp(0, 6);
            case Activation.Tanh: return x.tanh();
            case Activation.Sigmoid: return x.sigmoid();
            case Activation.Identity: return x.alias();
            default:
                using (Tensor positive = nn.functional.relu(x))
                {
                    return positive.square();
                }
        }
    }

    /// <summary>act(gate)·up of two tensors of one shape: a new tensor.</summary>
    public static Tensor Gate(this Activation activation, Tensor gate, Tensor up)
    {
        ArgumentNullException.ThrowIfNull(gate);
        ArgumentNullException.ThrowIfNull(up);
        if (activation == Activation.Silu && CpuKernels.Take(gate) && gate.dtype == up.dtype && gate.is_contiguous() && up.is_contiguous())
        {
            return SiluProductKernel.Forward(gate, up);
        }

        using Tensor active = activation.Apply(gate);
        return active * up;
    }

    private static Tensor Product(Tensor x, Func<Tensor, Tensor> factor)
    {
        using var scope = NewDisposeScope();
        return (x * factor(x)).MoveToOuterDisposeScope();
    }

    // TorchSharp's gelu has no 'approximate': 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), Hendrycks & Gimpel 2016.
    private static Tensor GeluTanh(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor wide = x.to(ScalarType.Float32);
        Tensor inner = (wide + (wide * wide * wide * 0.044715)) * Math.Sqrt(2 / Math.PI);
        return (wide * 0.5 * (inner.tanh() + 1.0)).to(x.dtype).MoveToOuterDisposeScope();
    }
}

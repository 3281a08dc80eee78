using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Training.Optimizers;

/// <summary>
/// All gradients of a run in one flat float32 tensor, which every parameter's gradient is a view of: clearing, the
/// global norm and clipping are one operator each, whatever the number of parameters.
/// </summary>
public sealed class GradientBuffer : IDisposable
{
    // torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6.
    private const double NormEpsilon = 1e-6;
    private readonly Tensor _flat;
    private readonly Tensor? _low;

    /// <summary>Makes the buffer and hangs its views into the parameters.</summary>
    /// <param name="parameters">Trainable tensors on one device; low-precision ones all of one type.</param>
    public GradientBuffer(IReadOnlyList<NamedTensor> parameters)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        Parameters = TrainedParameter.Create(parameters);
        Device device = Parameters[0].Parameter.device;
        _flat = zeros(Parameters.Sum(p => p.Parameter.NumberOfElements), ScalarType.Float32, device).DetachFromDisposeScope();
        long low = Parameters.Where(p => p.IsMastered).Sum(p => p.Parameter.NumberOfElements);
        if (low > 0)
        {
            _low = zeros(low, Parameters.First(p => p.IsMastered).Parameter.dtype, device).DetachFromDisposeScope();
        }

        // Low-precision parameters come first, so that their part of the flat buffer is one piece too.
        long offset = 0;
        foreach (TrainedParameter parameter in Parameters.OrderByDescending(p => p.IsMastered))
        {
            parameter.Gradient = View(_flat, offset, parameter.Parameter);
            parameter.RawGradient = parameter.IsMastered ? View(_low!, offset, parameter.Parameter) : parameter.Gradient;
            parameter.AttachGradient();
            offset += parameter.Parameter.NumberOfElements;
        }
    }

    /// <summary>Every parameter once, tied ones merged, in the order given.</summary>
    public IReadOnlyList<TrainedParameter> Parameters { get; }

    /// <summary>Number of trained values.</summary>
    public long Count => _flat.NumberOfElements;

    /// <summary>The device of the gradients.</summary>
    public Device Device => _flat.device;

    /// <summary>Adds what a micro-batch left in low precision to the float32 sums; call after each backward pass.</summary>
    public void Collect()
    {
        if (_low is not null)
        {
            using var none = no_grad();
            using Tensor head = _flat.narrow(0, 0, _low.NumberOfElements);
            head.add_(_low);
            using Tensor cleared = _low.zero_();
        }
    }

    /// <summary>Sets every gradient to 0.</summary>
    public void Clear()
    {
        using var none = no_grad();
        using Tensor cleared = _flat.zero_();
    }

    /// <summary>
    /// Sets every gradient to −0, to learn from <see cref="Untouched"/> which of them a step reaches: −0 + x is x, and
    /// −0 + 0 is +0 (IEEE 754, section 6.3), so that even a gradient that is zero everywhere (A's while B is zero)
    /// leaves its trace.
    /// </summary>
    public void Mark()
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        _flat.fill_(-0.0f);
    }

    /// <summary>
    /// Float32 parameters that nothing was added to since <see cref="Mark"/>, not even zeros. Low-precision ones are
    /// not told: their sums pass through another buffer.
    /// </summary>
    public IReadOnlyList<string> Untouched()
    {
        using var none = no_grad();
        using var scope = NewDisposeScope();
        Tensor still = _flat.signbit().logical_and_(_flat.eq(0));
        var names = new List<string>();
        long offset = 0;
        foreach (TrainedParameter parameter in Parameters.OrderByDescending(p => p.IsMastered))
        {
            long count = parameter.Parameter.NumberOfElements;
            if (!parameter.IsMastered && still.narrow(0, offset, count).all().item<bool>())
            {
                names.Add(parameter.Name);
            }

            offset += count;
        }

        return names;
    }

    /// <summary>The global 2-norm as a scalar tensor the caller disposes: nothing waits for the device.</summary>
    public Tensor Norm()
    {
        using var none = no_grad();
        return _flat.norm();
    }

    /// <summary>Scales all gradients by min(1, max / (norm + 1e-6)), as <c>clip_grad_norm_</c> does, without a host sync.</summary>
    public void Clip(Tensor norm, double max)
    {
        ArgumentNullException.ThrowIfNull(norm);
        if (max <= 0)
        {
            return;
        }

        using var none = no_grad();
        using var scope = NewDisposeScope();
        Tensor factor = (norm + NormEpsilon).reciprocal().mul(max).clamp_max(1);
        _flat.mul_(factor);
    }

    /// <summary>Unhangs and frees the gradients.</summary>
    public void Dispose()
    {
        foreach (TrainedParameter parameter in Parameters)
        {
            parameter.DetachGradient();
            if (parameter.IsMastered)
            {
                parameter.RawGradient.Dispose();
            }

            parameter.Gradient.Dispose();
            parameter.Dispose();
        }

        _flat.Dispose();
        _low?.Dispose();
    }

    private static Tensor View(Tensor flat, long offset, Tensor like)
    {
        using Tensor piece = flat.narrow(0, offset, like.NumberOfElements);
        return piece.view(like.shape).DetachFromDisposeScope();
    }
}

using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Training.Data;
using static TorchSharp.torch;

namespace LoraSharp.Training.Loss;

/// <summary>
/// One pass of a micro-batch through a model. Either autograd keeps all activations, or only each block's input is
/// kept and <see cref="Backward"/> runs the blocks again, last to first (Chen et al. 2016, arXiv 1604.06174): the
/// gradients are the same bits, because a block's numbers depend on nothing but its input and the pass's noise.
/// </summary>
public sealed class ForwardPass : IDisposable
{
    private readonly CausalLanguageModel _model;
    private readonly MaskedAttention _attention;
    private readonly Tensor _ids;
    private readonly Tensor _positions;
    private readonly DecoderPass? _pass;
    private readonly List<Tensor> _inputs = [];
    private readonly Tensor? _last;
    private readonly ITrainingNoise? _noise;

    /// <summary>Runs the model up to the final norm.</summary>
    /// <param name="model">The model.</param>
    /// <param name="batch">Padded or packed rows.</param>
    /// <param name="recompute">Keep the blocks' inputs only.</param>
    /// <param name="noise">Noise on the embeddings, begun by the caller; null for none.</param>
    public ForwardPass(CausalLanguageModel model, MicroBatch batch, bool recompute, ITrainingNoise? noise = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(batch);
        _model = model;
        _noise = noise;
        _ids = Upload(batch.InputIds, batch, model.Device);
        _positions = Upload(batch.Positions, batch, model.Device);
        _attention = AttentionOf(batch, model.Device);
        if (!recompute || !is_grad_enabled())
        {
            Hidden = Whole().DetachFromDisposeScope();
            return;
        }

        _pass = model.Begin(_positions, _attention);
        using (no_grad())
        {
            Tensor x = Embed(_pass).DetachFromDisposeScope();
            for (int layer = 0; layer < model.LayerCount; layer++)
            {
                _inputs.Add(x);
                x = model.RunLayer(layer, x, _pass).DetachFromDisposeScope();
            }

            _last = x;
        }

        _last.requires_grad_();
        Hidden = model.Normalize(_last).DetachFromDisposeScope();
    }

    /// <summary>Output of the final norm [b, s, d], differentiable; owned by the pass.</summary>
    public Tensor Hidden { get; }

    /// <summary>Adds the gradients of the model's trainable tensors.</summary>
    /// <param name="output">Something computed from <see cref="Hidden"/>.</param>
    /// <param name="gradient">Gradient of the loss by it.</param>
    public void Backward(Tensor output, Tensor gradient)
    {
        ArgumentNullException.ThrowIfNull(output);
        output.backward([gradient]);
        if (_pass is null || _last is null)
        {
            return;
        }

        Tensor? flowing = _last.grad?.DetachFromDisposeScope();
        for (int layer = _model.LayerCount - 1; layer >= 0 && flowing is not null; layer--)
        {
            using var scope = NewDisposeScope();
            Tensor input = _inputs[layer].detach().requires_grad_();
            Tensor result = _model.RunLayer(layer, input, _pass);
            result.backward([flowing]);
            flowing.Dispose();
            flowing = input.grad?.DetachFromDisposeScope();
            _inputs[layer].Dispose();
        }

        if (flowing is not null)
        {
            using Tensor embedded = Embed(_pass);
            if (embedded.requires_grad)
            {
                embedded.backward([flowing]);
            }

            flowing.Dispose();
        }
    }

    /// <summary>Frees what the pass made.</summary>
    public void Dispose()
    {
        Hidden.Dispose();
        _last?.Dispose();
        foreach (Tensor input in _inputs)
        {
            input.Dispose();
        }

        _pass?.Dispose();
        _attention.Dispose();
        _ids.Dispose();
        _positions.Dispose();
    }

    // All activations stay with autograd.
    private Tensor Whole()
    {
        using var scope = NewDisposeScope();
        using DecoderPass pass = _model.Begin(_positions, _attention);
        Tensor x = Embed(pass);
        for (int layer = 0; layer < _model.LayerCount; layer++)
        {
            using Tensor before = x;
            x = _model.RunLayer(layer, before, pass);
        }

        return _model.Normalize(x).MoveToOuterDisposeScope();
    }

    private Tensor Embed(DecoderPass pass)
    {
        Tensor clean = _model.Embed(_ids, pass);
        Tensor noisy = _noise?.Embedded(clean) ?? clean;
        if (!ReferenceEquals(noisy, clean))
        {
            clean.Dispose();
        }

        return noisy;
    }

    private static Tensor Upload(long[] values, MicroBatch batch, Device device) =>
        tensor(values, [batch.Rows, batch.Length], ScalarType.Int64, device).DetachFromDisposeScope();

    private static MaskedAttention AttentionOf(MicroBatch batch, Device device)
    {
        bool packed = batch.Sequences.Any(s => s > 1);
        if (!packed && !HasPaddingBefore(batch))
        {
            // Padding at the end is never seen by a real token.
            return new PaddedAttention();
        }

        using Tensor sequences = tensor(batch.Sequences, [batch.Rows, batch.Length], ScalarType.Int32, device);
        using Tensor wide = sequences.to(ScalarType.Int64);
        return packed ? new SequenceAttention(wide) : new PaddedAttention(wide);
    }

    private static bool HasPaddingBefore(MicroBatch batch)
    {
        for (int i = 1; i < batch.Sequences.Length; i++)
        {
            if (i % batch.Length != 0 && batch.Sequences[i] != 0 && batch.Sequences[i - 1] == 0)
            {
                return true;
            }
        }

        return false;
    }
}

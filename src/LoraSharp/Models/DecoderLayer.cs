using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>One block: attention and a feed-forward part around the residual stream, with norms where the family has them.</summary>
internal sealed class DecoderLayer : IDisposable
{
    private readonly DecoderConfig _config;
    private readonly NormLayer? _inputNorm;
    private readonly NormLayer? _attentionOutputNorm;
    private readonly NormLayer? _feedForwardNorm;
    private readonly NormLayer? _feedForwardOutputNorm;

    public DecoderLayer(DecoderConfig config, int index, ILinearFactory factory, WeightReader weights)
    {
        _config = config;
        DecoderNames names = config.Names;
        string path = names.Layer(index);
        Attention = config.Attention.Latent is null
            ? new SelfAttention(config, index, factory, weights)
            : new LatentAttention(config, index, factory, weights);
        FeedForward = config.Layers[index].Sparse
            ? new MixtureOfExperts(config, index, factory, weights)
            : CreateDense(config, path, factory, weights);
        _inputNorm = Norm(names.InputNorm);
        _attentionOutputNorm = Norm(names.AttentionOutputNorm);
        _feedForwardNorm = Norm(names.FeedForwardNorm);
        _feedForwardOutputNorm = Norm(names.FeedForwardOutputNorm);

        NormLayer? Norm(string? name) => name is null ? null : new(config.Norm, $"{path}.{name}", config.HiddenSize, factory, weights);
    }

    public AttentionLayer Attention { get; }

    public FeedForwardLayer FeedForward { get; }

    public IEnumerable<LinearLayer> Linears => Attention.Linears.Concat(FeedForward.Linears);

    public IEnumerable<NamedTensor> OwnParameters =>
    [
        .. Attention.OwnParameters,
        .. FeedForward.OwnParameters,
        .. Norms.SelectMany(n => n.Parameters),
    ];

    private IEnumerable<NormLayer> Norms =>
        new[] { _inputNorm, _attentionOutputNorm, _feedForwardNorm, _feedForwardOutputNorm }.Where(n => n is not null)!;

    /// <summary>x [b, s, d] → [b, s, d].</summary>
    public Tensor Forward(Tensor x, RotaryAngles? angles, Tensor positions, AttentionContext context)
    {
        using var scope = NewDisposeScope();
        if (_config.NormsAfterResidual)
        {
            Tensor first = _inputNorm!.Forward(x + Attention.Forward(x, angles, positions, context));
            return _feedForwardNorm!.Forward(first + FeedForward.Forward(first)).MoveToOuterDisposeScope();
        }

        Tensor input = _inputNorm?.Forward(x) ?? x;
        Tensor attended = Attention.Forward(input, angles, positions, context);
        attended = Scaled(_attentionOutputNorm?.Forward(attended) ?? attended);
        if (_config.Parallel)
        {
            Tensor beside = _feedForwardNorm?.Forward(x) ?? input;
            return (x + attended + Scaled(FeedForward.Forward(beside))).MoveToOuterDisposeScope();
        }

        Tensor middle = x + attended;
        Tensor fed = FeedForward.Forward(_feedForwardNorm?.Forward(middle) ?? middle);
        return (middle + Scaled(_feedForwardOutputNorm?.Forward(fed) ?? fed)).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        Attention.Dispose();
        FeedForward.Dispose();
        foreach (NormLayer norm in Norms)
        {
            norm.Dispose();
        }
    }

    private Tensor Scaled(Tensor x) => _config.ResidualScale == 1 ? x : x * _config.ResidualScale;

    private static FeedForwardLayer CreateDense(DecoderConfig config, string layer, ILinearFactory factory, WeightReader weights)
    {
        DecoderNames names = config.Names;
        (int size, Activation activation, bool bias) = config.FeedForward;
        string path = names.FeedForward.Length == 0 ? layer : $"{layer}.{names.FeedForward}";
        long d = config.HiddenSize;
        if (names.GateUp is null && names.Gate is { } gate)
        {
            return GatedFeedForward.Create(path, (gate, names.Up, names.Down), d, size, activation, bias, factory, weights);
        }

        bool conv = config.Attention.Conv1D;
        LinearLayer up = factory.CreateLinear(new($"{path}.{names.GateUp ?? names.Up}", d, names.GateUp is null ? size : 2L * size, bias) { IsConv1D = conv }, weights);
        LinearLayer down = factory.CreateLinear(new($"{path}.{names.Down}", size, d, bias) { IsConv1D = conv }, weights);
        return names.GateUp is null ? new PlainFeedForward(activation, up, down) : new GatedFeedForward(activation, size, null, up, down);
    }
}

using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>The experts of one layer, as the checkpoint stores them.</summary>
internal interface IExpertBank
{
    /// <summary>Linear layers, where experts are stored one by one.</summary>
    IEnumerable<LinearLayer> Linears { get; }

    /// <summary>Stacked tensors, where they are not.</summary>
    IEnumerable<NamedTensor> OwnParameters { get; }

    /// <summary>x [n, d] → [n, d] by one expert; the result belongs to the caller's scope.</summary>
    Tensor Forward(int expert, Tensor x);
}

/// <summary>Each expert is three linear layers.</summary>
internal sealed class SeparateExperts : IExpertBank
{
    private readonly GatedFeedForward[] _experts;

    /// <param name="config">Of the mixture.</param>
    /// <param name="path">Of the block in the checkpoint.</param>
    /// <param name="stacks">Of the experts in transformers 5, which stacks them on loading.</param>
    /// <param name="hidden">d.</param>
    /// <param name="factory">Makes the layers.</param>
    /// <param name="weights">Where their weights come from.</param>
    public SeparateExperts(ExpertsConfig config, string path, string stacks, long hidden, ILinearFactory factory, WeightReader weights) =>
        _experts = [.. Enumerable.Range(0, config.Count).Select(i =>
            GatedFeedForward.Create($"{path}.experts.{i}", config.Names, hidden, config.Size, config.Activation, bias: false, factory, weights, (stacks, i, config.Count)))];

    public IEnumerable<LinearLayer> Linears => _experts.SelectMany(e => e.Linears);

    public IEnumerable<NamedTensor> OwnParameters => [];

    public Tensor Forward(int expert, Tensor x) => _experts[expert].Forward(x);
}

/// <summary>Two stacks [experts, 2f, d] with rows [gate | up] and [experts, d, f].</summary>
internal sealed class StackedExperts : IExpertBank
{
    private readonly ExpertsConfig _config;
    private readonly ExpertStack _input;
    private readonly ExpertStack _output;

    public StackedExperts(ExpertsConfig config, string path, long hidden, ILinearFactory factory, WeightReader weights)
    {
        _config = config;
        _input = factory.CreateExperts(new(path + ".input_linear.weight", config.Count, hidden, 2L * config.Size), weights);
        _output = factory.CreateExperts(new(path + ".output_linear.weight", config.Count, config.Size, hidden), weights);
    }

    public IEnumerable<LinearLayer> Linears => [];

    public IEnumerable<NamedTensor> OwnParameters => [new(_input.Spec.Name, _input.Weight), new(_output.Spec.Name, _output.Weight)];

    public Tensor Forward(int expert, Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor both = _input.Forward(expert, x);
        Tensor inner = _config.Activation.Apply(both.narrow(-1, 0, _config.Size)) * both.narrow(-1, _config.Size, _config.Size);
        return _output.Forward(expert, inner).MoveToOuterDisposeScope();
    }
}

/// <summary>gpt-oss: stacks [experts, d, 2f] with gate and up in alternating columns and [experts, f, d], with biases.</summary>
internal sealed class InterleavedExperts : IExpertBank
{
    // The gate is x·sigmoid(1.702·x), a rough GELU (Hendrycks & Gimpel 2016, section 2).
    private const double GateSlope = 1.702;

    private readonly ExpertsConfig _config;
    private readonly ExpertStack _gateUp;
    private readonly NamedTensor _gateUpBias;
    private readonly ExpertStack _down;
    private readonly NamedTensor _downBias;

    public InterleavedExperts(ExpertsConfig config, string path, long hidden, ILinearFactory factory, WeightReader weights)
    {
        _config = config;
        _gateUp = Stack("gate_up_proj", hidden, 2L * config.Size);
        _gateUpBias = Bias("gate_up_proj_bias", 2L * config.Size);
        _down = Stack("down_proj", config.Size, hidden);
        _downBias = Bias("down_proj_bias", hidden);

        ExpertStack Stack(string name, long k, long f) => factory.CreateExperts(new($"{path}.experts.{name}", config.Count, k, f) { IsTransposed = true }, weights);

        NamedTensor Bias(string name, long f)
        {
            string full = $"{path}.experts.{name}";
            long[] shape = [config.Count, f];
            return new(full, factory.CreateParameter(full, shape, weights));
        }
    }

    public IEnumerable<LinearLayer> Linears => [];

    public IEnumerable<NamedTensor> OwnParameters => [new(_gateUp.Spec.Name, _gateUp.Weight), _gateUpBias, new(_down.Spec.Name, _down.Weight), _downBias];

    public Tensor Forward(int expert, Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor pairs = (_gateUp.Forward(expert, x) + _gateUpBias.Value.select(0, expert)).view(-1, _config.Size, 2);
        Tensor gate = pairs.select(-1, 0).clamp(max: _config.ClampLimit);
        Tensor up = pairs.select(-1, 1).clamp(-_config.ClampLimit, _config.ClampLimit);
        Tensor inner = (up + 1.0) * (gate * (gate * GateSlope).sigmoid());
        return (_down.Forward(expert, inner) + _downBias.Value.select(0, expert)).MoveToOuterDisposeScope();
    }
}

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

    public SeparateExperts(ExpertsConfig config, string path, long hidden, ILinearFactory factory, WeightReader weights) =>
        _experts = [.. Enumerable.Range(0, config.Count).Select(i =>
            GatedFeedForward.Create($"{path}.experts.{i}", config.Names, hidden, config.Size, config.Activation, bias: false, factory, weights))];

    public IEnumerable<LinearLayer> Linears => _experts.SelectMany(e => e.Linears);

    public IEnumerable<NamedTensor> OwnParameters => [];

    public Tensor Forward(int expert, Tensor x) => _experts[expert].Forward(x);
}

/// <summary>Two stacks [experts, 2f, d] with rows [gate | up] and [experts, d, f].</summary>
internal sealed class StackedExperts : IExpertBank
{
    private readonly ExpertsConfig _config;
    private readonly NamedTensor _input;
    private readonly NamedTensor _output;

    public StackedExperts(ExpertsConfig config, string path, long hidden, ILinearFactory factory, WeightReader weights)
    {
        _config = config;
        string input = path + ".input_linear.weight";
        string output = path + ".output_linear.weight";
        _input = new(input, factory.CreateParameter(input, [config.Count, 2L * config.Size, hidden], weights));
        _output = new(output, factory.CreateParameter(output, [config.Count, hidden, config.Size], weights));
    }

    public IEnumerable<LinearLayer> Linears => [];

    public IEnumerable<NamedTensor> OwnParameters => [_input, _output];

    public Tensor Forward(int expert, Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor both = nn.functional.linear(x, _input.Value.select(0, expert));
        Tensor inner = _config.Activation.Apply(both.narrow(-1, 0, _config.Size)) * both.narrow(-1, _config.Size, _config.Size);
        return nn.functional.linear(inner, _output.Value.select(0, expert)).MoveToOuterDisposeScope();
    }
}

/// <summary>gpt-oss: stacks [experts, d, 2f] with gate and up in alternating columns and [experts, f, d], with biases.</summary>
internal sealed class InterleavedExperts : IExpertBank
{
    // The gate is x·sigmoid(1.702·x), a rough GELU (Hendrycks & Gimpel 2016, section 2).
    private const double GateSlope = 1.702;

    private readonly ExpertsConfig _config;
    private readonly NamedTensor _gateUp;
    private readonly NamedTensor _gateUpBias;
    private readonly NamedTensor _down;
    private readonly NamedTensor _downBias;

    public InterleavedExperts(ExpertsConfig config, string path, long hidden, ILinearFactory factory, WeightReader weights)
    {
        _config = config;
        _gateUp = Create("gate_up_proj", config.Count, hidden, 2L * config.Size);
        _gateUpBias = Create("gate_up_proj_bias", config.Count, 2L * config.Size);
        _down = Create("down_proj", config.Count, config.Size, hidden);
        _downBias = Create("down_proj_bias", config.Count, hidden);

        NamedTensor Create(string name, params long[] shape)
        {
            string full = $"{path}.experts.{name}";
            return new(full, factory.CreateParameter(full, shape, weights));
        }
    }

    public IEnumerable<LinearLayer> Linears => [];

    public IEnumerable<NamedTensor> OwnParameters => [_gateUp, _gateUpBias, _down, _downBias];

    public Tensor Forward(int expert, Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor pairs = (x.matmul(_gateUp.Value.select(0, expert)) + _gateUpBias.Value.select(0, expert)).view(-1, _config.Size, 2);
        Tensor gate = pairs.select(-1, 0).clamp(max: _config.ClampLimit);
        Tensor up = pairs.select(-1, 1).clamp(-_config.ClampLimit, _config.ClampLimit);
        Tensor inner = (up + 1.0) * (gate * (gate * GateSlope).sigmoid());
        return (inner.matmul(_down.Value.select(0, expert)) + _downBias.Value.select(0, expert)).MoveToOuterDisposeScope();
    }
}

using LoraSharp.Layers;
using static TorchSharp.torch;

namespace LoraSharp.Models;

/// <summary>A router chooses k of many gated feed-forwards for each token (Shazeer et al. 2017); shared ones see all tokens.</summary>
internal sealed class MixtureOfExperts : FeedForwardLayer
{
    private readonly ExpertsConfig _config;
    private readonly string _path;
    private readonly LinearLayer _router;
    private readonly Tensor? _choiceBias;
    private readonly IExpertBank _experts;
    private readonly GatedFeedForward? _shared;

    public MixtureOfExperts(DecoderConfig config, int layer, ILinearFactory factory, WeightReader weights)
    {
        _config = config.Experts!;
        _path = $"{config.Names.Layer(layer)}.{_config.Block}";
        long d = config.HiddenSize;
        string router = $"{_path}.{_config.Router}";
        bool interleaved = _config.Storage == ExpertStorage.StackedInterleaved;
        _router = factory.CreateLinear(new(router, d, _config.Count, interleaved) { KeepPrecision = true }, weights);
        _choiceBias = _config.Routing == Routing.GroupedSigmoid ? factory.CreateParameter(router + ".e_score_correction_bias", [_config.Count], weights) : null;
        _experts = _config.Storage switch
        {
            ExpertStorage.Separate => new SeparateExperts(_config, _path, $"{config.Names.Layer(layer)}.{ExpertsConfig.StacksPath}", d, factory, weights),
            ExpertStorage.Stacked => new StackedExperts(_config, _path, d, factory, weights),
            _ => new InterleavedExperts(_config, _path, d, factory, weights),
        };
        _shared = _config.SharedSize == 0
            ? null
            : GatedFeedForward.Create(_path + ".shared_experts", _config.Names, d, _config.SharedSize, _config.Activation, bias: false, factory, weights);
    }

    public override IEnumerable<LinearLayer> Linears => [_router, .. _experts.Linears, .. _shared?.Linears ?? []];

    public override IEnumerable<NamedTensor> OwnParameters =>
    [
        .. _choiceBias is null ? [] : new NamedTensor[] { new($"{_path}.{_config.Router}.e_score_correction_bias", _choiceBias) },
        .. _experts.OwnParameters,
    ];

    public override Tensor Forward(Tensor x)
    {
        using var scope = NewDisposeScope();
        Tensor rows = x.reshape(-1, x.shape[^1]);
        (Tensor chosen, Tensor shares) = Route(rows);
        Tensor sum = zeros_like(rows);
        foreach ((int expert, Tensor tokens, Tensor places) in Assignments(chosen))
        {
            Tensor share = shares.reshape(-1).index_select(0, places).to(x.dtype).unsqueeze(1);
            sum = sum.index_add(0, tokens, _experts.Forward(expert, rows.index_select(0, tokens)) * share, 1);
        }

        Tensor result = sum.view(x.shape);
        return (_shared is null ? result : result + _shared.Forward(x)).MoveToOuterDisposeScope();
    }

    protected override void DisposeOwn()
    {
        _choiceBias?.Dispose();
        foreach (NamedTensor own in _experts.OwnParameters)
        {
            own.Value.Dispose();
        }
    }

    // rows [n, d] → indices [n, k] and weights [n, k] in float32.
    private (Tensor Chosen, Tensor Shares) Route(Tensor rows)
    {
        Tensor scores = _router.Forward(rows).to(ScalarType.Float32);
        if (_config.Routing == Routing.TopKThenSoftmax)
        {
            (Tensor best, Tensor where) = scores.topk(_config.PerToken, -1);
            return (where, nn.functional.softmax(best, -1));
        }

        Tensor shares, chosen;
        if (_config.Routing == Routing.SoftmaxThenTopK)
        {
            (shares, chosen) = nn.functional.softmax(scores, -1).topk(_config.PerToken, -1);
        }
        else
        {
            Tensor open = scores.sigmoid();
            chosen = ChooseInGroups(open.detach() + _choiceBias!.to(ScalarType.Float32));
            shares = open.gather(-1, chosen);
        }

        if (_config.Normalize)
        {
            double guard = _config.Routing == Routing.GroupedSigmoid ? 1e-20 : 0;
            shares = shares / (shares.sum(-1, keepdim: true) + guard);
        }

        return (chosen, _config.WeightScale == 1 ? shares : shares * _config.WeightScale);
    }

    // DeepSeek-V3, section 2.1.2: a group counts by its two best experts; the best k come from the best groups.
    private Tensor ChooseInGroups(Tensor scores)
    {
        long n = scores.shape[0];
        int size = _config.Count / _config.Groups;
        Tensor grouped = scores.view(n, _config.Groups, size);
        Tensor worth = grouped.topk(Math.Min(2, size), -1).values.sum(-1);
        Tensor groups = worth.topk(_config.TopGroups, -1).indexes;
        Tensor open = zeros_like(worth).scatter(1, groups, ones_like(worth)).ne(0);
        Tensor allowed = open.unsqueeze(-1).expand(n, _config.Groups, size).reshape(n, _config.Count);
        return scores.masked_fill(allowed.logical_not(), 0).topk(_config.PerToken, -1).indexes;
    }

    // Who goes where is decided on the host: one transfer a layer instead of one search an expert.
    private List<(int Expert, Tensor Tokens, Tensor Places)> Assignments(Tensor chosen)
    {
        long[] flat = chosen.to(ScalarType.Int64).cpu().reshape(-1).data<long>().ToArray();
        var places = new List<long>?[_config.Count];
        for (int i = 0; i < flat.Length; i++)
        {
            (places[flat[i]] ??= []).Add(i);
        }

        var assignments = new List<(int, Tensor, Tensor)>();
        for (int expert = 0; expert < places.Length; expert++)
        {
            if (places[expert] is { } list)
            {
                Tensor tokens = tensor(list.Select(p => p / _config.PerToken).ToArray(), device: chosen.device);
                assignments.Add((expert, tokens, tensor(list.ToArray(), device: chosen.device)));
            }
        }

        return assignments;
    }
}

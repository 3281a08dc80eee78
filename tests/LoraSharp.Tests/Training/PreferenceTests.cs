using LoraSharp.Adapters;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using LoraSharp.Training;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using LoraSharp.Training.Preferences;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Training;

public sealed class PreferenceTests
{
    private static readonly PairLogProbabilities Sums = new(-12.5, -14.25, -13.0, -13.5);
    private static readonly PairLogProbabilities Means = new(-1.25, -2.0, -1.5, -1.75);

    public static TheoryData<PreferenceKind, double, double, double, bool, double> ByHand => new()
    {
        { PreferenceKind.Sigmoid, 0.1, 0, 0, false, 0.6325990353171691 },
        { PreferenceKind.Sigmoid, 0.1, 0.1, 0, false, 0.6450990353171692 },
        { PreferenceKind.Hinge, 0.1, 0, 0, false, 0.875 },
        { PreferenceKind.Ipo, 0.1, 0, 0, true, 20.25 },
        { PreferenceKind.Orpo, 0.1, 0, 0, true, 1.2829147338753286 },
        { PreferenceKind.SimPo, 2, 0, 0.5, true, 0.31326168751822286 },
    };

    // Values computed in double precision from the papers' formulas, which are TRL's.
    [Theory]
    [MemberData(nameof(ByHand))]
    public void EqualsTheFormula(PreferenceKind kind, double beta, double smoothing, double gamma, bool means, double expected)
    {
        PreferenceOptions options = new() { Kind = kind, Beta = beta, LabelSmoothing = smoothing, Gamma = gamma };
        Assert.Equal(expected, PreferenceLoss.OfPair(options, means ? Means : Sums).Loss, 12);
    }

    [Fact]
    public void KtoEqualsTheFormula()
    {
        PreferenceOptions options = new() { Kind = PreferenceKind.Kto, DesirableWeight = 1.5, UndesirableWeight = 0.5 };
        Assert.Equal(1.5 * (1 - (1 / (1 + Math.Exp(-0.1 * 0.25)))), PreferenceLoss.OfJudged(options, 0.5, 0.25, true).Loss, 12);
        Assert.Equal(0.5 * (1 - (1 / (1 + Math.Exp(0.1 * 0.25)))), PreferenceLoss.OfJudged(options, 0.5, 0.25, false).Loss, 12);
    }

    [Theory]
    [InlineData(PreferenceKind.Sigmoid)]
    [InlineData(PreferenceKind.Hinge)]
    [InlineData(PreferenceKind.Ipo)]
    [InlineData(PreferenceKind.Orpo)]
    [InlineData(PreferenceKind.SimPo)]
    public void DerivativesAreThoseOfTheLoss(PreferenceKind kind)
    {
        const double H = 1e-6;
        PreferenceOptions options = new() { Kind = kind, LabelSmoothing = kind == PreferenceKind.Sigmoid ? 0.2 : 0 };
        foreach (PairLogProbabilities p in (PairLogProbabilities[])[Means, Means with { Chosen = -0.05 }, Means with { Chosen = -30 }, Sums])
        {
            PairLoss loss = PreferenceLoss.OfPair(options, p);
            double byChosen = (Of(p with { Chosen = p.Chosen + H }) - Of(p with { Chosen = p.Chosen - H })) / (2 * H);
            double byRejected = (Of(p with { Rejected = p.Rejected + H }) - Of(p with { Rejected = p.Rejected - H })) / (2 * H);
            Assert.Equal(byChosen, loss.ByChosen, 5);
            Assert.Equal(byRejected, loss.ByRejected, 5);
        }

        double Of(PairLogProbabilities p) => PreferenceLoss.OfPair(options, p).Loss;
    }

    /// <summary>Loss and gradients of a model against plain tensor code with all logits and autograd.</summary>
    [Theory]
    [InlineData(PreferenceKind.Sigmoid)]
    [InlineData(PreferenceKind.Hinge)]
    [InlineData(PreferenceKind.Ipo)]
    [InlineData(PreferenceKind.Orpo)]
    [InlineData(PreferenceKind.SimPo)]
    [InlineData(PreferenceKind.Kto)]
    public void EqualsAutogradOverAllLogits(PreferenceKind kind)
    {
        NativeRuntime.EnsureLoaded();
        using var scope = NewDisposeScope();
        using var source = ModelSource.OpenFolder(Fixtures.Path("models/llama"));
        using var adapters = new AdapterSet();
        using CausalLanguageModel model = ModelLoader.Load(source, new LoraLinearFactory(adapters, new DenseLinearFactory()), ScalarType.Float32, CPU);
        adapters.Create(new LoraOptions { Rank = 4, Alpha = 8 }, 1);
        NamedTensor[] trainable = [.. adapters.Trainable];
        var random = new Generator(3);
        using (no_grad())
        {
            foreach (NamedTensor tensor in trainable)
            {
                tensor.Value.copy_(randn(tensor.Value.shape, generator: random) * 0.2);
            }
        }

        PreferenceOptions options = new() { Kind = kind, Beta = 0.3, LabelSmoothing = kind == PreferenceKind.Sigmoid ? 0.1 : 0, Gamma = 0.4, UndesirableWeight = 0.7 };
        MicroBatch batch = Batch() with { Desirable = kind == PreferenceKind.Kto ? [true, false] : null };
        ReferenceCache cache = new();
        var objective = new PreferenceObjective(model, options, new TrainerOptions { LogitElements = 1 }, adapters.Disable, null, cache);
        double weight = objective.Weight(batch);
        Assert.Equal(2, weight);
        using MicroBatchLoss sums = objective.Backward(batch, weight, 0);
        Tensor[] gradients = [.. trainable.Select(t => t.Value.grad!.clone())];
        foreach (NamedTensor tensor in trainable)
        {
            tensor.Value.grad = null;
        }

        Tensor expected = Reference(model, adapters, batch, options);
        expected.backward();
        Assert.Equal(expected.item<double>(), sums.Sum.item<double>() / weight, 5);
        for (int i = 0; i < trainable.Length; i++)
        {
            double difference = (trainable[i].Value.grad! - gradients[i]).abs().max().item<float>();
            Assert.True(difference < 2e-5, $"{trainable[i].Name} differs by {difference}");
        }

        using MicroBatchLoss evaluated = objective.Evaluate(batch);
        Assert.Equal(sums.Sum.item<double>(), evaluated.Sum.item<double>(), 5);
        Assert.Equal(!options.NeedsReference ? 0 : kind == PreferenceKind.Kto ? 2 : 4, cache.Count);
    }

    [Fact]
    public void ReferencesAreRememberedInAFile()
    {
        string path = Path.Combine(Directory.CreateTempSubdirectory("cache").FullName, "reference.bin");
        MicroBatch batch = Batch();
        ReferenceCache cache = new(path, "model");
        cache.Add([new(cache.KeyOf(batch, 0, false), -1.5)]);
        cache.Add([new(cache.KeyOf(batch, 1, false), -2.5)]);
        File.AppendAllText(path, "half an entry");
        ReferenceCache again = new(path, "model");
        Assert.Equal(2, again.Count);
        Assert.True(again.TryGet(again.KeyOf(batch, 1, false), out double value));
        Assert.Equal(-2.5, value);
        Assert.False(again.TryGet(again.KeyOf(batch, 1, true), out _));
        Assert.False(again.TryGet(again.KeyOf(batch, 2, false), out _));
        Assert.False(new ReferenceCache(path, "another").TryGet(new ReferenceCache(null, "another").KeyOf(batch, 0, false), out _));
        again.Add([new(again.KeyOf(batch, 2, false), -3)]);
        Assert.Equal(3, new ReferenceCache(path, "model").Count);
        File.WriteAllText(path, "x");
        Assert.Throws<LoraSharp.Formats.MalformedFileException>(() => new ReferenceCache(path));
    }

    // As TRL writes them, over tensors.
    private static Tensor Reference(CausalLanguageModel model, AdapterSet adapters, MicroBatch batch, PreferenceOptions options)
    {
        Tensor policy = LogProbabilities(model, batch, options);
        Tensor reference;
        using (no_grad())
        using (adapters.Disable())
        {
            reference = LogProbabilities(model, batch, options);
        }

        double beta = options.Beta;
        if (options.Kind == PreferenceKind.Kto)
        {
            // Rows 2 and 3 stand for the mismatched answers.
            double divergence = Math.Max(0, (policy - reference).detach().narrow(0, 2, 2).mean().item<double>());
            policy = policy.narrow(0, 0, 2);
            reference = reference.narrow(0, 0, 2);
            Tensor ratio = policy - reference;
            Tensor good = 1 - (beta * (ratio - divergence)).sigmoid();
            Tensor bad = 1 - (beta * (divergence - ratio)).sigmoid();
            Tensor verdicts = tensor(batch.Desirable!.Select(v => v ? 1.0 : 0.0).ToArray());
            return ((good * verdicts * options.DesirableWeight) + (bad * (1 - verdicts) * options.UndesirableWeight)).mean();
        }

        Tensor chosen = policy.narrow(0, 0, 2), rejected = policy.narrow(0, 2, 2);
        Tensor logits = chosen - rejected;
        if (options.NeedsReference)
        {
            logits = logits - (reference.narrow(0, 0, 2) - reference.narrow(0, 2, 2));
        }

        Tensor LogSigmoid(Tensor z) => nn.functional.logsigmoid(z);
        return (options.Kind switch
        {
            PreferenceKind.Sigmoid => (-LogSigmoid(beta * logits) * (1 - options.LabelSmoothing)) - (LogSigmoid(-beta * logits) * options.LabelSmoothing),
            PreferenceKind.Hinge => nn.functional.relu(1 - (beta * logits)),
            PreferenceKind.Ipo => (logits - (1 / (2 * beta))).pow(2),
            PreferenceKind.SimPo => -LogSigmoid(beta * (logits - (options.Gamma / beta))),
            _ => -chosen - (beta * LogSigmoid(logits - ((-chosen.exp()).log1p() - (-rejected.exp()).log1p()))),
        }).mean();
    }

    private static Tensor LogProbabilities(CausalLanguageModel model, MicroBatch batch, PreferenceOptions options)
    {
        Tensor ids = tensor(batch.InputIds, [batch.Rows, batch.Length], ScalarType.Int64);
        Tensor positions = tensor(batch.Positions, [batch.Rows, batch.Length], ScalarType.Int64);
        Tensor mask = tensor(batch.Sequences, [batch.Rows, batch.Length], ScalarType.Int32);
        using var attention = new PaddedAttention(mask.to(ScalarType.Int64));
        Tensor logP = model.Forward(ids, positions, attention).to(ScalarType.Float64).log_softmax(-1).narrow(1, 0, batch.Length - 1);
        Tensor labels = tensor(batch.Labels, [batch.Rows, batch.Length], ScalarType.Int64).narrow(1, 1, batch.Length - 1);
        Tensor wanted = labels.ne(TrainingExample.Ignored);
        Tensor token = logP.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1) * wanted.to(ScalarType.Float64);
        Tensor sums = token.sum(1);
        return options.IsPerToken ? sums / wanted.sum(1).to(ScalarType.Float64) : sums;
    }

    private static MicroBatch Batch()
    {
        int[] lengths = [9, 7, 6, 10], prompts = [4, 4, 3, 3];
        const int Length = 10;
        Random random = new(4);
        MicroBatch batch = new()
        {
            Rows = 4,
            Length = Length,
            InputIds = new long[40],
            Labels = new long[40],
            Positions = new long[40],
            Sequences = new int[40],
            Origins = ["a+", "a-", "b+", "b-"],
        };
        for (int at = 0; at < 40; at++)
        {
            int row = at / Length, t = at % Length;
            bool real = t < lengths[row];
            batch.InputIds[at] = real ? random.Next(3, 160) : 0;
            batch.Labels[at] = real && t >= prompts[row] ? batch.InputIds[at] : TrainingExample.Ignored;
            batch.Positions[at] = t;
            batch.Sequences[at] = real ? 1 : 0;
        }

        return batch;
    }
}

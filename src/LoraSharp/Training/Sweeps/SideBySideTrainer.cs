using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Models;
using LoraSharp.Training.Data;
using LoraSharp.Training.Loss;
using static TorchSharp.torch;

namespace LoraSharp.Training.Sweeps;

/// <summary>
/// Trains several adapters at once on one frozen base. Every trial sees the same rows in the same order: a micro-batch is
/// laid out once for each of them, one below the other, and each part is routed through its own adapter. The base's
/// products run once over all parts; losses and gradients of a trial depend on its own part alone, so each comes out as
/// if it had been trained by itself.
/// </summary>
public sealed class SideBySideTrainer : IDisposable
{
    private readonly CausalLanguageModel _model;
    private readonly AdapterSet _adapters;
    private readonly SweepOptions _options;
    private readonly ChunkedCrossEntropy _loss;
    private readonly RecomputeDecision _recompute;
    private readonly List<TrialState> _trials = [];

    /// <summary>Creates the adapters.</summary>
    /// <param name="model">Built through a <see cref="LoraLinearFactory"/> over <paramref name="adapters"/>, with a frozen base.</param>
    /// <param name="adapters">Gets an adapter for each trial; they stay in it.</param>
    /// <param name="trials">What is to be trained.</param>
    /// <param name="options">Steps, evaluation, halving.</param>
    /// <exception cref="LoraSharpException">A trial can't be trained beside others.</exception>
    public SideBySideTrainer(CausalLanguageModel model, AdapterSet adapters, IReadOnlyList<SweepTrial> trials, SweepOptions options)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(adapters);
        ArgumentNullException.ThrowIfNull(trials);
        ArgumentNullException.ThrowIfNull(options);
        ThrowIfUnfit(trials, options);
        _model = model;
        _adapters = adapters;
        _options = options;
        foreach (SweepTrial trial in trials)
        {
            LoraAdapter adapter = adapters.Create(trial.Adapter!, trial.Training.Seed, trial.Name);
            if (adapter.Modules.ContainsKey(model.Head.Spec.Name) || adapter.Modules.Values.Any(m => m.IsEmbedding))
            {
                throw new LoraSharpException($"{trial.Name}: adapts the embedding or the output projection, which a sweep shares between its trials. Leave {model.Head.Spec.Name} and the embeddings out of the targets, or train this one by itself.");
            }

            _trials.Add(new TrialState(trial, adapter, options.Steps));
        }

        adapters.SelectNone();
        _loss = LanguageModelingObjective.CreateLoss(model, trials[0].Training);
        _recompute = new RecomputeDecision(model, trials[0].Training.GradientCheckpointing);
    }

    /// <summary>Trains all trials to the end.</summary>
    /// <param name="batches">The rows, the same for all.</param>
    /// <param name="validation">Gives the validation rows anew for each evaluation; null for none.</param>
    /// <param name="progress">Hears of each step: its number and the mean loss of the running trials.</param>
    /// <param name="cancellation">Ends after the step it is in.</param>
    public IReadOnlyList<TrialResult> Run(IBatchSource batches, Func<IEnumerable<MicroBatch>>? validation = null, Action<long, double>? progress = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(batches);
        for (long step = 0; step < _options.Steps && !cancellation.IsCancellationRequested; step++)
        {
            TrialState[] running = [.. _trials.Where(t => t.IsRunning)];
            IReadOnlyList<MicroBatch> micro = batches.NextStep();
            if (running.Length == 0 || micro.Count == 0)
            {
                break;
            }

            double[] losses = Step(step, micro, running);
            progress?.Invoke(step + 1, losses.Average());
            bool last = step + 1 == _options.Steps;
            bool halving = !last && _options.HalveEvery > 0 && (step + 1) % _options.HalveEvery == 0;
            if (validation is not null && (last || halving || (_options.EvalInterval > 0 && (step + 1) % _options.EvalInterval == 0)))
            {
                Evaluate(step + 1, validation());
            }

            if (halving)
            {
                Halve();
            }
        }

        return [.. _trials.Select(t => t.Result())];
    }

    /// <summary>Frees optimizers and gradients; the adapters stay in their set.</summary>
    public void Dispose() => _trials.ForEach(t => t.Dispose());

    private static void ThrowIfUnfit(IReadOnlyList<SweepTrial> trials, SweepOptions options)
    {
        List<string> faults = [.. options.Validate()];
        faults.AddRange(trials.GroupBy(t => t.Name, StringComparer.Ordinal).Where(g => g.Count() > 1).Select(g => $"{g.Key}: two trials have this name"));
        faults.AddRange(trials.SelectMany(t => t.Training.Validate().Select(f => $"{t.Name}: {f}")));
        faults.AddRange(trials.SelectMany(t => Needs(t).Select(n => $"{t.Name}: {n} needs trials that train one by one (sweep.mode: single)")));
        if (trials.Count == 0)
        {
            faults.Add("there are no trials");
        }
        else if (trials.Any(t => (t.Training.LabelSmoothing, t.Training.ZLoss) != (trials[0].Training.LabelSmoothing, trials[0].Training.ZLoss)))
        {
            faults.Add("label smoothing and z-loss must be the same for all trials");
        }

        if (faults.Count > 0)
        {
            throw new LoraSharpException($"The sweep can't be run:\n  {string.Join("\n  ", faults)}");
        }
    }

    private static IEnumerable<string> Needs(SweepTrial trial)
    {
        TrainerOptions t = trial.Training;
        return new (bool Used, string Name)[]
        {
            (trial.IsFull, "training every weight"),
            (t.NeftuneAlpha > 0, "training.neftune_alpha"),
            (t.EmaDecay > 0, "training.ema_decay"),
            (t.EarlyStoppingPatience > 0, "training.early_stopping"),
        }.Where(n => n.Used).Select(n => n.Name);
    }

    private double[] Step(long step, IReadOnlyList<MicroBatch> micro, TrialState[] running)
    {
        double weight = micro.Sum(b => TargetTokens.Of(b).Weight);
        double[] losses = new double[running.Length];
        Array.ForEach(running, t => t.Clear());
        for (int i = 0; i < micro.Count && weight > 0; i++)
        {
            foreach (TrialState[] group in Groups(running, micro[i]))
            {
                double[] sums = Backward(micro[i], group, weight, TrainerPass.Number(step, i));
                for (int j = 0; j < sums.Length; j++)
                {
                    losses[Array.IndexOf(running, group[j])] += sums[j] / weight;
                }
            }

            Array.ForEach(running, t => t.Collect());
        }

        for (int i = 0; i < running.Length; i++)
        {
            running[i].Step(step, losses[i]);
        }

        return losses;
    }

    private IEnumerable<TrialState[]> Groups(TrialState[] running, MicroBatch micro) => running.Chunk(_options.GroupSize(
        running.Length,
        micro.Rows * micro.Length,
        _model.Device.type == TorchSharp.DeviceType.CPU ? SweepOptions.CpuPassTokens : SweepOptions.GpuPassTokens));

    /// <returns>Sum of the losses of each trial of the group.</returns>
    private double[] Backward(MicroBatch micro, TrialState[] group, double weight, long pass)
    {
        using var scope = NewDisposeScope();
        MicroBatch batch = Repeat(micro, group.Length);
        TargetTokens targets = TargetTokens.Of(batch);
        if (targets.Count == 0)
        {
            return new double[group.Length];
        }

        // A trial of its own draws its dropout from the same numbers: the seed is its own options'.
        using IDisposable noisy = new AdapterNoise(_adapters, group[0].Trial.Training.Seed).Begin(pass);
        using IDisposable routed = _adapters.Use(Route(micro, group));
        using var forward = new ForwardPass(_model, batch, _recompute.For(batch));
        (Tensor ids, Tensor? weights) = Upload(targets);
        Tensor selected = targets.Select(forward.Hidden);
        Tensor gradient = _loss.Backward(selected, ids, weights, 1 / weight, out Tensor losses);
        forward.Backward(selected, gradient);
        return ByTrial(weights is null ? losses : losses * weights, group.Length);
    }

    private void Evaluate(long step, IEnumerable<MicroBatch> validation)
    {
        TrialState[] running = [.. _trials.Where(t => t.IsRunning)];
        double[] sums = new double[running.Length];
        double weight = 0;
        using var none = no_grad();
        foreach (MicroBatch micro in validation)
        {
            weight += TargetTokens.Of(micro).Weight;
            int start = 0;
            foreach (TrialState[] group in Groups(running, micro))
            {
                using var scope = NewDisposeScope();
                MicroBatch batch = Repeat(micro, group.Length);
                TargetTokens targets = TargetTokens.Of(batch);
                using IDisposable routed = _adapters.Use(Route(micro, group));
                using var forward = new ForwardPass(_model, batch, false);
                (Tensor ids, Tensor? weights) = Upload(targets);
                Tensor losses = _loss.Losses(targets.Select(forward.Hidden), ids, false, out _);
                double[] part = ByTrial(weights is null ? losses : losses * weights, group.Length);
                for (int j = 0; j < part.Length; j++)
                {
                    sums[start + j] += part[j];
                }

                start += group.Length;
            }
        }

        for (int i = 0; i < running.Length && weight > 0; i++)
        {
            running[i].Evaluated(step, sums[i] / weight);
        }
    }

    // Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): the worse half is not worth the rest of the steps.
    private void Halve()
    {
        TrialState[] ranked = [.. _trials.Where(t => t.IsRunning).OrderBy(t => t.Result().Score)];
        foreach (TrialState worse in ranked.Skip((ranked.Length + 1) / 2))
        {
            worse.Stopped = true;
        }
    }

    private static AdapterSelection Route(MicroBatch micro, TrialState[] group) =>
        AdapterSelection.ForRows(group.Select(t => new RowSegment((long)micro.Rows * micro.Length, t.Adapter)));

    private static double[] ByTrial(Tensor losses, int trials)
    {
        using Tensor sums = losses.view(trials, -1).sum(1, type: ScalarType.Float64);
        using Tensor host = sums.cpu();
        return host.data<double>().ToArray();
    }

    private static MicroBatch Repeat(MicroBatch batch, int times) => times == 1 ? batch : batch with
    {
        Rows = batch.Rows * times,
        InputIds = Repeat(batch.InputIds, times),
        Labels = Repeat(batch.Labels, times),
        Positions = Repeat(batch.Positions, times),
        Sequences = Repeat(batch.Sequences, times),
        Weights = batch.Weights is null ? null : Repeat(batch.Weights, times),
        Origins = [.. Enumerable.Repeat(batch.Origins, times).SelectMany(o => o)],
    };

    private static T[] Repeat<T>(T[] values, int times)
    {
        T[] all = new T[values.Length * times];
        for (int i = 0; i < times; i++)
        {
            values.CopyTo(all, i * values.Length);
        }

        return all;
    }

    private (Tensor Ids, Tensor? Weights) Upload(TargetTokens targets) => (
        tensor(targets.Ids, ScalarType.Int64, _model.Device),
        targets.Weights is null ? null : tensor(targets.Weights, ScalarType.Float32, _model.Device));
}

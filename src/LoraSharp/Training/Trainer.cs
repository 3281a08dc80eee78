using System.Globalization;
using LoraSharp.Formats;
using LoraSharp.Training.Checkpoints;
using LoraSharp.Training.Data;
using LoraSharp.Training.Optimizers;
using static TorchSharp.torch;

namespace LoraSharp.Training;

/// <summary>
/// The training loop. Losses are weighted by tokens over the whole optimizer step, so how it is cut into micro-batches
/// does not matter. With a checkpoint store a run that was killed goes on bit by bit as if it had not been: nothing
/// random has a state of its own, everything is drawn from the seed, the step and the micro-batch.
/// </summary>
public sealed class Trainer : IDisposable
{
    private readonly TrainingSetup _setup;
    private readonly TrainerOptions _options;
    private readonly GradientBuffer _gradients;
    private readonly GradientProof _proof;
    private readonly Optimizer _optimizer;
    private readonly WeightAverage? _average;
    private readonly LearningRateSchedule _schedule;
    private readonly LossHistory _history;
    private readonly ValidationRecord _validation;
    private readonly StepTimer _timer;
    private readonly long _totalSteps;
    private long _step;
    private long _savedStep = -1;

    /// <summary>Prepares a run: gradients are attached to the trainable tensors, the optimizer's state is made.</summary>
    /// <exception cref="LoraSharpException">The options are faulty, nothing is trainable, or the number of steps can't be known.</exception>
    public Trainer(TrainingSetup setup, TrainerOptions options)
    {
        ArgumentNullException.ThrowIfNull(setup);
        ArgumentNullException.ThrowIfNull(options);
        options.ThrowIfInvalid();
        if (setup.Trainable.Count == 0)
        {
            throw new LoraSharpException("There is nothing to train: no tensor of the model has a gradient. Check the adapter's targets.");
        }

        _setup = setup;
        _options = options;
        _totalSteps = TotalStepsOf(setup.Batches, options);
        _schedule = options.CreateSchedule(_totalSteps);
        _gradients = new GradientBuffer(setup.Trainable);
        _optimizer = Optimizer.Create(_gradients, setup.Trainable, options);
        _proof = new GradientProof(_gradients, setup.MustLearn);
        _average = options.EmaDecay > 0 ? new WeightAverage(_gradients.Parameters, options.EmaDecay) : null;
        _history = new LossHistory(options.LossSpikeFactor);
        _validation = new ValidationRecord(options);
        _timer = new StepTimer(setup.Clock);
    }

    /// <summary>Optimizer steps completed.</summary>
    public long Step => _step;

    /// <summary>Optimizer steps of the whole run.</summary>
    public long TotalSteps => _totalSteps;

    /// <summary>
    /// Trains to the end, from the newest whole checkpoint if there is one. A cancellation ends the run after the step
    /// it is in, with a checkpoint.
    /// </summary>
    /// <exception cref="TrainingDivergedException">A loss or gradient is no number; the weights are those of before the step.</exception>
    public TrainingResult Run(CancellationToken cancellation = default)
    {
        Resume();
        while (_step < _totalSteps && !_validation.ShouldStop && !cancellation.IsCancellationRequested)
        {
            _timer.Start();
            long epoch = (long)_setup.Batches.Epoch;
            IReadOnlyList<MicroBatch> batches = _setup.Batches.NextStep();
            if (batches.Count == 0)
            {
                break;
            }

            double factor = _schedule.Factor(_step);
            using StepLoss loss = Accumulate(batches);
            ThrowIfDiverged(loss);
            _optimizer.Step(factor);
            _step++;
            _average?.Update(_step);
            Report(loss, batches, factor);
            if (IsEvaluationDue(epoch))
            {
                Evaluate();
            }

            if (IsSaveDue())
            {
                Save();
            }
        }

        return Finish(cancellation.IsCancellationRequested);
    }

    /// <summary>Evaluates the validation rows now, with the averaged weights if there are any; tells the observers.</summary>
    public Evaluated Evaluate()
    {
        using IDisposable? swapped = _average?.Apply();
        using Tensor norm = zeros(1, device: _gradients.Device);
        using var sums = new StepLoss();
        foreach (MicroBatch batch in _setup.Validation?.Invoke() ?? [])
        {
            sums.Add(batch, _setup.Objective.Evaluate(batch));
            _setup.BetweenPasses?.Invoke();
        }

        sums.Read(norm);
        _setup.Objective.Derive(sums.Metrics);
        Evaluated evaluated = new(_step, sums.Loss, _validation.Add(_step, sums.Loss), new Dictionary<string, double>(sums.Metrics)) { IsLikelihood = _setup.Objective.IsLikelihood };
        Tell(evaluated);
        return evaluated;
    }

    /// <summary>Writes a checkpoint of now.</summary>
    /// <returns>Its folder; null without a store.</returns>
    public string? Save()
    {
        if (_setup.Checkpoints is not { } store)
        {
            return null;
        }

        TrainingState state = new()
        {
            Step = _step,
            TotalSteps = _totalSteps,
            OptimizerSteps = _optimizer.Steps,
            Data = _setup.Batches.SaveState(),
            Objective = _setup.Objective.SaveState(),
            RecentLosses = _history.Losses,
            Recipe = _setup.Recipe,
            BestLoss = _validation.BestLoss,
            BestStep = _validation.BestStep,
            EvalLoss = _validation.LastLoss,
            EvalStep = _validation.LastStep,
            EvaluationsWithoutImprovement = _validation.WithoutImprovement,
        };
        string folder = store.Save(state, WriteTensors);
        _savedStep = _step;
        Tell(new CheckpointSaved(_step, folder));
        return folder;
    }

    /// <summary>Frees gradients and optimizer state; the trained tensors are their layers'.</summary>
    public void Dispose()
    {
        _optimizer.Dispose();
        _gradients.Dispose();
        _average?.Dispose();
    }

    private static long TotalStepsOf(IBatchSource batches, TrainerOptions options)
    {
        if (options.MaxSteps > 0)
        {
            return options.MaxSteps;
        }

        // A source that packs may fill another number of steps in each epoch.
        if (batches.TotalSteps is { } total)
        {
            return Math.Max(1, total);
        }

        return batches.StepsPerEpoch is { } steps
            ? Math.Max(1, (long)Math.Ceiling(options.Epochs * steps))
            : throw new LoraSharpException("training.max_steps: must be given, because the number of steps of this data set cannot be known before it has been read.");
    }

    private StepLoss Accumulate(IReadOnlyList<MicroBatch> batches)
    {
        _proof.Begin();
        double weight = batches.Sum(_setup.Objective.Weight);
        StepLoss loss = new();
        for (int i = 0; i < batches.Count && weight > 0; i++)
        {
            loss.Add(batches[i], _setup.Objective.Backward(batches[i], weight, TrainerPass.Number(_step, i)));
            _gradients.Collect();
            _setup.BetweenPasses?.Invoke();
        }

        if (weight > 0)
        {
            _proof.Require(_step + 1);
        }

        using Tensor norm = _gradients.Norm();
        _gradients.Clip(norm, _options.MaxGradNorm);
        loss.Read(norm);
        _setup.Objective.Derive(loss.Metrics);
        return loss;
    }

    private void ThrowIfDiverged(StepLoss loss)
    {
        if (!loss.IsFinite)
        {
            throw new TrainingDivergedException(_step + 1, loss.Loss, loss.GradNorm, loss.WorstRows(5), _setup.Checkpoints?.FindLatest()?.Folder);
        }
    }

    private void Report(StepLoss loss, IReadOnlyList<MicroBatch> batches, double factor)
    {
        long tokens = batches.Sum(b => (long)b.Tokens);
        (double tokensPerSecond, TimeSpan remaining) = _timer.Stop(tokens, _totalSteps - _step);
        if (_history.IsSpike(loss.Loss, out double usual))
        {
            Tell(new LossSpiked(_step, loss.Loss, usual, loss.WorstRows(5)));
        }

        _history.Add(loss.Loss);
        Tell(new StepCompleted(_step)
        {
            TotalSteps = _totalSteps,
            Loss = loss.Loss,
            GradNorm = loss.GradNorm,
            LearningRate = _options.LearningRate * factor,
            Tokens = tokens,
            TokensPerSecond = tokensPerSecond,
            Epoch = _setup.Batches.Epoch,
            Remaining = remaining,
            Metrics = new Dictionary<string, double>(loss.Metrics),
        });
    }

    // The last step's checkpoint knows the last evaluation: a run killed after it does not evaluate again.
    private bool IsEvaluationDue(long epochBefore) => _setup.Validation is not null
        && (_step == _totalSteps || (_options.EvalInterval > 0 ? _step % _options.EvalInterval == 0 : (long)_setup.Batches.Epoch > epochBefore));

    private bool IsSaveDue() => (_options.SaveInterval > 0 && _step % _options.SaveInterval == 0)
        || (_options.LoadBestAtEnd && _validation.BestStep == _step);

    private TrainingResult Finish(bool cancelled)
    {
        bool interrupted = cancelled && _step < _totalSteps && !_validation.ShouldStop;
        if (!interrupted && _setup.Validation is not null && _validation.LastStep != _step)
        {
            Evaluate();
        }

        if (_savedStep != _step)
        {
            Save();
        }

        string? checkpoint = _savedStep == _step ? _setup.Checkpoints?.PathOf(_step) : null;
        TrainingEnd end = interrupted ? TrainingEnd.Interrupted : _validation.ShouldStop ? TrainingEnd.EarlyStopped : TrainingEnd.Completed;
        if (!interrupted)
        {
            _average?.Publish();
            LoadBest();
        }

        Tell(new TrainingEnded(_step, end, end switch
        {
            TrainingEnd.Interrupted => $"Stopped after step {_step} of {_totalSteps}." + (checkpoint is null ? string.Empty : $" Everything is saved in {checkpoint}: run the same command again to go on."),
            TrainingEnd.EarlyStopped => string.Create(CultureInfo.InvariantCulture, $"Stopped after step {_step}: no better validation loss for {_validation.WithoutImprovement} evaluations. The best was {_validation.BestLoss:0.####} at step {_validation.BestStep}."),
            _ => $"Done: {_step} steps.",
        }));
        return new TrainingResult(_step, end, _history.Mean, _validation.LastLoss, _validation.BestLoss, _validation.BestStep, checkpoint);
    }

    private void LoadBest()
    {
        if (_options.LoadBestAtEnd && _validation.BestStep is { } best && best != _step && _setup.Checkpoints is { } store && store.Steps.Contains(best))
        {
            TrainerCheckpoint.ReadWeights(store.PathOf(best), _gradients, _average);
            _average?.Publish();
        }
    }

    private void Resume()
    {
        if (_setup.Checkpoints?.FindLatest(Tell) is not var (folder, state))
        {
            Tell(new TrainingStarted(0, _totalSteps, _gradients.Count, null));
            return;
        }

        TrainerCheckpoint.ThrowIfDifferent(folder, state, _setup.Recipe);
        TrainerCheckpoint.Read(folder, state, _gradients, _optimizer, _average);
        _setup.Batches.RestoreState(state.Data);
        if (state.Objective is { } remembered)
        {
            _setup.Objective.RestoreState(remembered);
        }

        _step = state.Step;
        _savedStep = state.Step;
        _history.Restore(state.RecentLosses);
        _validation.Restore(state);
        Tell(new TrainingStarted(_step, _totalSteps, _gradients.Count, folder) { EvaluatedStep = _validation.LastStep });
    }

    private void WriteTensors(string folder)
    {
        TrainerCheckpoint.Write(folder, _gradients, _optimizer, _average);
        _setup.WriteModel?.Invoke(folder);
    }

    private void Tell(TrainingEvent happened)
    {
        foreach (ITrainingObserver observer in _setup.Observers)
        {
            observer.On(happened);
        }
    }
}

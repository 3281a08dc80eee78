using LoraSharp.Formats;
using LoraSharp.Recipes;
using LoraSharp.Serving;

namespace LoraSharp.Server.Training;

/// <summary>
/// Fine-tunes on the served base, beside serving, one at a time: started by the program (<c>lora serve --train</c>) or over
/// HTTP, watched and ended over HTTP. The finished adapter answers under its name.
/// </summary>
public sealed class TrainingDesk
{
    private readonly InferenceEngine _engine;
    private readonly LoadedModel _model;
    private readonly TimeProvider _clock;
    private readonly Lock _gate = new();
    private TrainingJob? _current;

    /// <summary>Prepares; nothing runs yet.</summary>
    /// <param name="engine">Serves <paramref name="model"/>.</param>
    /// <param name="model">The base that is trained on and served; stays the caller's.</param>
    /// <param name="clock">For dates; null for the system's.</param>
    public TrainingDesk(InferenceEngine engine, LoadedModel model, TimeProvider? clock = null)
    {
        _engine = engine;
        _model = model;
        _clock = clock ?? TimeProvider.System;
    }

    /// <summary>Where the served base lies: what a recipe names that is trained here.</summary>
    public string Model => _model.Source.Location;

    /// <summary>The run that goes on, else the last one; null before the first.</summary>
    public TrainingJob? Current
    {
        get
        {
            lock (_gate)
            {
                return _current;
            }
        }
    }

    /// <summary>Starts a run.</summary>
    /// <param name="recipe">What to train; its <c>model</c> must be the served one. A run that was cut off goes on.</param>
    /// <param name="name">What requests will call the adapter.</param>
    /// <param name="share">Share of the time for training while requests run, above 0, at most 1; all of it while none does.</param>
    /// <param name="recipeFolder">Relative paths that do not exist from the working folder are looked up here; null for none.</param>
    /// <param name="notes">Told what a user should know; called on the training's thread.</param>
    /// <exception cref="TrainingBusyException">One runs already.</exception>
    public TrainingJob Start(Recipe recipe, string name, double share = 0.5, string? recipeFolder = null, Action<string>? notes = null)
    {
        ArgumentNullException.ThrowIfNull(recipe);
        ArgumentException.ThrowIfNullOrEmpty(name);
        lock (_gate)
        {
            if (_current is { IsOver: false } running)
            {
                throw new TrainingBusyException($"A training run is under way already: '{running.Name}', step {running.Step} of {running.TotalSteps}. Wait for its end, or cancel it.");
            }

            var job = new TrainingJob(name, recipe.Output, share, _clock);
            job.Run((told, cancellation) => TrainingBesideServing.RunAsync(_engine, _model, recipe, name, share, recipeFolder, [job], told, cancellation), notes);
            return _current = job;
        }
    }

    /// <summary>Ends the run, if there is one, after the step it is in, with a checkpoint; comes back when it has ended.</summary>
    public async Task StopAsync()
    {
        if (Current is { } job)
        {
            job.Cancel();
            await job.Ended.ConfigureAwait(false);
        }
    }
}

/// <summary>A training run is under way, and there is one at a time.</summary>
public sealed class TrainingBusyException(string message) : LoraSharpException(message);

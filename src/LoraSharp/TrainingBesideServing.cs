using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Hub;
using LoraSharp.Recipes;
using LoraSharp.Serving;
using LoraSharp.Training;

namespace LoraSharp;

/// <summary>
/// A fine-tune on the base that a server answers with: both share its weights in memory and take turns, a micro-batch
/// here and some steps there. The finished adapter answers under its name without a restart.
/// </summary>
/// <remarks>
/// The run has a thread of its own, because it keeps things on its stack between two turns, but it moves only while the
/// engine's thread waits for it: never do both touch a tensor at the same time.
/// </remarks>
public sealed class TrainingBesideServing : IBackgroundWork
{
    private readonly AdapterSet _adapters;
    private readonly Thread _thread;
    private readonly SemaphoreSlim _turn = new(0);
    private readonly SemaphoreSlim _back = new(0);
    private AdapterSelection _selection = AdapterSelection.None;
    private bool _isTraining;
    private bool _started;
    private volatile bool _stopping;
    private volatile bool _ended;
    private Exception? _error;
    private FineTuneResult? _result;

    private TrainingBesideServing(LoadedModel model, Recipe recipe, string? recipeFolder, IReadOnlyList<ITrainingObserver> observers, Action<string>? notes, CancellationToken cancellation)
    {
        _adapters = model.Adapters;
        var run = new FineTuneRun(recipe, recipeFolder) { SharedModel = model, BetweenPasses = GiveTurn };
        _thread = new Thread(() =>
        {
            _turn.Wait();
            try
            {
                if (!_stopping)
                {
                    _result = run.Execute(observers, notes, cancellation);
                }
            }
            catch (Exception error)
            {
                _error = error;
            }

            _ended = true;
            _back.Release();
        })
        { Name = "LoraSharp training beside serving", IsBackground = true };
    }

    /// <summary>Trains beside an engine and registers the adapter when it is done.</summary>
    /// <param name="engine">Serves <paramref name="model"/>.</param>
    /// <param name="model">The base both use.</param>
    /// <param name="recipe">What to train; its <c>model</c> must be the served one. A run that was cut off goes on.</param>
    /// <param name="name">What requests will call the adapter.</param>
    /// <param name="share">Share of the time for training while requests run, above 0, at most 1; all of it while none does.</param>
    /// <param name="recipeFolder">As in <see cref="FineTuneRun"/>.</param>
    /// <param name="observers">Hear of every step, on the training's thread.</param>
    /// <param name="notes">As in <see cref="FineTuneRun.Execute"/>.</param>
    /// <param name="cancellation">Ends the run after the step it is in, with a checkpoint.</param>
    /// <exception cref="LoraSharpException">Faulty recipe or data, another base, or the run failed; the server goes on.</exception>
    public static async Task<FineTuneResult> RunAsync(
        InferenceEngine engine, LoadedModel model, Recipe recipe, string name, double share = 0.5, string? recipeFolder = null, IReadOnlyList<ITrainingObserver>? observers = null, Action<string>? notes = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(engine);
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(recipe);
        ArgumentException.ThrowIfNullOrEmpty(name);
        RequireSameBase(model, new RecipeSettings(recipe, recipeFolder).Model);
        TrainingBesideServing? work = null;

        // The run sees the cancellation itself, so that it can write its checkpoint.
        await engine.RunBesideAsync(() => work = new TrainingBesideServing(model, recipe, recipeFolder, observers ?? [], notes, cancellation), share, CancellationToken.None).ConfigureAwait(false);
        FineTuneResult result = work!._result!;
        if (result.Complete)
        {
            await engine.LoadAsync(name, result.Folder).ConfigureAwait(false);
        }

        return result;
    }

    /// <inheritdoc/>
    public bool RunSlice()
    {
        if (!_started)
        {
            _started = true;
            _thread.Start();
        }

        Turn();
        return _error is null ? !_ended : throw _error;
    }

    /// <summary>Ends the run, if it has not ended, at the place where it waits.</summary>
    public void Dispose()
    {
        _stopping = true;
        if (_started)
        {
            while (!_ended)
            {
                Turn();
            }

            _thread.Join();
        }

        _turn.Dispose();
        _back.Dispose();
    }

    // On the engine's thread: the run moves on with its own selection of adapters, and this thread waits.
    private void Turn()
    {
        bool training = _adapters.Training;
        using (_adapters.Use(_selection))
        {
            _adapters.Training = _isTraining;
            _turn.Release();
            _back.Wait();
            _isTraining = _adapters.Training;
            _selection = _ended ? AdapterSelection.None : _adapters.Selection;
        }

        _adapters.Training = training;
    }

    // On the run's thread.
    private void GiveTurn()
    {
        _back.Release();
        _turn.Wait();
        if (_stopping)
        {
            throw new OperationCanceledException("The server stopped.");
        }
    }

    private static void RequireSameBase(LoadedModel model, string named)
    {
        string wanted = Path.GetFullPath(HubCache.FromEnvironment().Locate(named)), served = Path.GetFullPath(model.Source.Location);
        if (!string.Equals(Path.TrimEndingDirectorySeparator(wanted), Path.TrimEndingDirectorySeparator(served), StringComparison.Ordinal))
        {
            throw new LoraSharpException($"The recipe's model is {wanted}, the server's {served}. Training beside serving uses the base that is served: name that one.");
        }
    }
}

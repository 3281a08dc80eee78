using LoraSharp.Formats.Peft;
using LoraSharp.Inference;
using LoraSharp.Layers;
using LoraSharp.Serving;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Serving;

/// <summary>A request of a test.</summary>
/// <param name="Adapter">Null for the base.</param>
/// <param name="Prompt">Its tokens.</param>
/// <param name="Tokens">How many to generate.</param>
/// <param name="Delay">Steps of other requests to let pass before it comes.</param>
internal sealed record Job(string? Adapter, int[] Prompt, int Tokens, int Delay);

/// <summary>One model for the plain generator and one for engines; expected texts are remembered.</summary>
internal sealed class EngineBench : IAsyncDisposable
{
    private readonly LoadedModel _plain;
    private readonly LoadedModel _served;
    private readonly IReadOnlyList<string> _adapters;
    private readonly Dictionary<string, IReadOnlyList<int>> _expected = [];

    public EngineBench(string model, IReadOnlyList<string> adapters, EngineOptions? options = null)
    {
        options ??= new EngineOptions { Model = model, Device = "cpu" };
        _plain = EngineSetup.Load(options);
        _served = EngineSetup.Load(options);
        set_num_threads(1);
        _adapters = adapters;
        foreach (string name in adapters)
        {
            using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
            _plain.Adapters.Load(folder, name);
        }
    }

    public int Vocabulary => _plain.Model.Config.VocabularySize;

    public LoadedModel Served => _served;

    /// <summary>What the plain generator makes of it.</summary>
    public IReadOnlyList<int> Expected(Job job)
    {
        string key = $"{job.Adapter} {string.Join(',', job.Prompt)} {job.Tokens}";
        if (!_expected.TryGetValue(key, out IReadOnlyList<int>? tokens))
        {
            _plain.Adapters.Select(job.Adapter is null ? [] : [(job.Adapter, 1.0)]);
            tokens = new TextGenerator(_plain.Model).Generate(job.Prompt, Options(job.Tokens)).TokenIds;
            _expected.Add(key, tokens);
        }

        return tokens;
    }

    /// <summary>Sends all of them and compares.</summary>
    /// <param name="jobs">The requests.</param>
    /// <param name="limits">The engine's.</param>
    /// <param name="leave">Whether every second caller leaves after two tokens.</param>
    public async Task<EngineStatus> CheckAsync(Job[] jobs, EngineLimits limits, bool leave = false)
    {
        IReadOnlyList<int>[] expected = [.. jobs.Select(Expected)];
        using InferenceEngine engine = _served.CreateEngine(limits);
        foreach (string name in _adapters)
        {
            await engine.RegisterAsync(name, Fixtures.Path("adapters/" + name));
        }

        IReadOnlyList<int>[] got = await Task.WhenAll(jobs.Select((job, i) => RunAsync(engine, job, leave && i % 2 == 1 ? 2 : int.MaxValue)));
        for (int i = 0; i < jobs.Length; i++)
        {
            Assert.True(
                (expected[i].Take(got[i].Count).SequenceEqual(got[i]) && (leave || got[i].Count == expected[i].Count)) || IsNearTie(jobs[i], expected[i], got[i]),
                $"Job {i} of adapter {jobs[i].Adapter}, prompt of {jobs[i].Prompt.Length}: expected {string.Join(' ', expected[i])}, got {string.Join(' ', got[i])} with {limits}");
        }

        while (engine.Status is { Blocks.Used: > 0 } or { Waiting: > 0 })
        {
            await Task.Delay(1);
        }

        return engine.Status;
    }

    // Rounding may turn a choice between two tokens that are as good as equal; what follows is another text then.
    private bool IsNearTie(Job job, IReadOnlyList<int> expected, IReadOnlyList<int> got)
    {
        int at = expected.Zip(got).TakeWhile(p => p.First == p.Second).Count();
        if (at >= expected.Count || at >= got.Count)
        {
            return false;
        }

        _plain.Adapters.Select(job.Adapter is null ? [] : [(job.Adapter, 1.0)]);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        long[] ids = [.. job.Prompt.Concat(expected.Take(at)).Select(t => (long)t)];
        using var attention = new PaddedAttention();
        Tensor logits = _plain.Model.Forward(tensor(ids).unsqueeze(0), arange(ids.Length, ScalarType.Int64).unsqueeze(0), attention).select(1, ids.Length - 1).view(-1);
        return Math.Abs(logits[expected[at]].item<float>() - logits[got[at]].item<float>()) < 2e-4;
    }

    public static GenerationOptions Options(int tokens) => new() { MaxTokens = tokens, IgnoreEos = true };

    public static async Task<IReadOnlyList<int>> RunAsync(InferenceEngine engine, Job job, int most = int.MaxValue)
    {
        await Task.Yield();
        long after = engine.Status.Steps + job.Delay;
        while (engine.Status is { Running: > 0 } status && status.Steps < after)
        {
            await Task.Delay(1);
        }

        var tokens = new List<int>();
        await foreach (TokenUpdate update in engine.GenerateAsync(new InferenceRequest { Adapter = job.Adapter, Prompt = job.Prompt, Options = Options(job.Tokens) }))
        {
            tokens.Add(update.Token!.Value);
            if (tokens.Count == most)
            {
                break;
            }
        }

        return tokens;
    }

    public ValueTask DisposeAsync()
    {
        _plain.Dispose();
        _served.Dispose();
        return ValueTask.CompletedTask;
    }
}

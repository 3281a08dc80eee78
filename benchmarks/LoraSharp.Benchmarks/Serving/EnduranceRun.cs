using System.Diagnostics;
using System.Net;
using System.Text.Json;
using LoraSharp.Serving;
using TorchSharp;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>
/// Clients of all kinds against one server while adapters come, go and are replaced under them. Every token that comes
/// back is compared with the plain generator's; from time to time all rest, and what is left in memory is counted.
/// </summary>
internal sealed class EnduranceRun
{
    /// <summary>Replaced in turn by two others; an answer must be wholly of one of them.</summary>
    private const string Swapped = "swapped";

    /// <summary>Loaded and unloaded; it may rightly be unknown.</summary>
    private const string Passing = "passing";

    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(20);

    private readonly EnduranceOptions _options;
    private readonly (string Name, string Path)[] _stable;
    private readonly string[] _versions;
    private readonly string _passing;
    private readonly ExpectedAnswers _expected;
    private readonly BenchServer _server;
    private readonly EnduranceReport _report = new();
    private readonly PauseGate _gate = new();

    private EnduranceRun(EnduranceOptions options, IReadOnlyList<(string Name, string Path)> adapters, ExpectedAnswers expected, BenchServer server)
    {
        _options = options;
        _versions = [adapters[0].Path, adapters[1].Path];
        _passing = adapters[2].Path;
        _stable = [.. adapters];
        _expected = expected;
        _server = server;
    }

    /// <summary>Runs the whole test.</summary>
    /// <param name="loaded">The model; stays the caller's.</param>
    /// <param name="adapters">At least three.</param>
    /// <param name="options">How long, how many.</param>
    /// <param name="onRest">Called when the expected answers are there (at 0 s), and at each rest.</param>
    /// <param name="cancellation">Ends it early with an exception.</param>
    public static async Task<EnduranceReport> RunAsync(LoadedModel loaded, IReadOnlyList<(string Name, string Path)> adapters, EnduranceOptions options, Action<RestFigures>? onRest = null, CancellationToken cancellation = default)
    {
        var random = new Random(options.Seed);
        int[][] questions = [.. Enumerable.Range(0, options.Questions).Select(_ => Enumerable.Range(0, random.Next(1, options.Prompt + 1)).Select(_ => random.Next(3, options.Vocabulary)).ToArray())];
        ExpectedAnswers expected = ExpectedAnswers.Compute(loaded, adapters.Select(a => a.Path), questions, options.Answer);
        await using BenchServer server = await BenchServer.StartAsync(loaded, options.Limits).ConfigureAwait(false);
        foreach ((string name, string path) in adapters)
        {
            await server.Engine.LoadAsync(name, path).ConfigureAwait(false);
        }

        var run = new EnduranceRun(options, adapters, expected, server);
        onRest?.Invoke(await run.RestAsync(0, cancellation).ConfigureAwait(false));
        await run.LoopAsync(onRest, cancellation).ConfigureAwait(false);
        return run._report;
    }

    private async Task LoopAsync(Action<RestFigures>? onRest, CancellationToken cancellation)
    {
        using var over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        long start = Stopwatch.GetTimestamp();
        Task[] work = [.. Enumerable.Range(0, _options.Clients).Select(i => ClientAsync(_options.Seed + 100 + i, over.Token)), ChangesAsync(_options.Seed + 99, over.Token)];
        for (int rest = 1; rest <= _options.Rests; rest++)
        {
            do
            {
                TimeSpan left = TimeSpan.FromSeconds(_options.Seconds * rest / _options.Rests) - Stopwatch.GetElapsedTime(start);
                await Task.WhenAny([Task.Delay(left > Look ? left : Look, cancellation), .. work]).ConfigureAwait(false);
                foreach (Task ended in work.Where(w => w.IsCompleted))
                {
                    await ended.ConfigureAwait(false);
                }

                cancellation.ThrowIfCancellationRequested();
            }
            while (_report.Answers * _options.Rests < _options.Answers * rest || _report.Changes * _options.Rests < _options.Changes * rest);

            using (await _gate.PauseAsync().ConfigureAwait(false))
            {
                RestFigures figures = await RestAsync(Stopwatch.GetElapsedTime(start).TotalSeconds, cancellation).ConfigureAwait(false);
                _report.Rests.Add(figures);
                onRest?.Invoke(figures);
            }
        }

        await over.CancelAsync().ConfigureAwait(false);
        foreach (Task one in work)
        {
            try
            {
                await one.ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                // The end.
            }
        }

        _report.Seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private async Task<RestFigures> RestAsync(double seconds, CancellationToken cancellation)
    {
        long waitFrom = Stopwatch.GetTimestamp();
        while (_server.Engine.Status is { Running: > 0 } or { Waiting: > 0 })
        {
            if (Stopwatch.GetElapsedTime(waitFrom).TotalSeconds > 60)
            {
                _report.Fault($"{_server.Engine.Status.Running} sequences still run a minute after the last client left");
                break;
            }

            await Task.Delay(5, cancellation).ConfigureAwait(false);
        }

        // A request whose client vanished may reach the engine only now, or an adapter be loaded for it: other adapters then lie
        // in memory than those that were asked last, and they differ in their tensors. What is left over for good is so twice.
        using var client = new CompletionClient(_server.Address);
        long tensors = await CountAsync(client, cancellation).ConfigureAwait(false);
        for (int again = 0; again < 5; again++)
        {
            long before = tensors;
            tensors = await CountAsync(client, cancellation).ConfigureAwait(false);
            if (tensors == before)
            {
                break;
            }
        }

        using Process process = Process.GetCurrentProcess();
        EngineStatus status = _server.Engine.Status;
        _report.Preemptions = status.Preemptions;
        _report.SharedTokens = status.SharedTokens;
        return new RestFigures(seconds, tensors, process.WorkingSet64 / 1e6, GC.GetTotalMemory(false) / 1e6, status.Blocks.Used, status.Blocks.Total - status.Blocks.Used, _report.Answers);
    }

    // Live tensors. The same adapters are used in the same order before, so that the same ones lie in memory.
    private async Task<long> CountAsync(CompletionClient client, CancellationToken cancellation)
    {
        foreach (string name in new[] { Swapped, Passing })
        {
            await client.PostAsync("v1/unload_lora_adapter", Unload(name), cancellation).ConfigureAwait(false);
        }

        foreach ((string name, _) in _stable)
        {
            await client.AskAsync(name, _expected.Questions[0], 1, cancellation: cancellation).ConfigureAwait(false);
        }

        while (_server.Engine.Status.Running > 0)
        {
            await Task.Delay(5, cancellation).ConfigureAwait(false);
        }

        GC.Collect();
        GC.WaitForPendingFinalizers();
        GC.Collect();
        return torch.Tensor.TotalCount;
    }

    private async Task ClientAsync(int seed, CancellationToken cancellation)
    {
        var random = new Random(seed);
        using var client = new CompletionClient(_server.Address);
        while (!cancellation.IsCancellationRequested)
        {
            using (await _gate.EnterAsync(cancellation).ConfigureAwait(false))
            {
                await OneAsync(client, random, cancellation).ConfigureAwait(false);
            }
        }
    }

    private async Task OneAsync(CompletionClient client, Random random, CancellationToken cancellation)
    {
        double kind = random.NextDouble();
        int question = random.Next(_expected.Questions.Count);
        (string Name, string Path) stable = _stable[random.Next(_stable.Length)];
        (string model, string[] paths) = random.Next(8) switch
        {
            0 or 1 => (BenchServer.BaseName, [ExpectedAnswers.Base]),
            2 => (Swapped, _versions),
            3 => (Passing, [_passing]),
            _ => (stable.Name, new[] { stable.Path }),
        };
        int tokens = random.Next(1, _options.Answer + 1);
        tokens = Math.Min(tokens, paths.Min(p => _expected[p, question].Length));
        if (tokens < 1)
        {
            return;
        }

        int[] prompt = _expected.Questions[question];
        switch (kind)
        {
            case < 0.10:
                await client.VanishAsync(model, prompt, tokens, TimeSpan.FromMilliseconds(random.Next(0, 60)), cancellation).ConfigureAwait(false);
                _report.Count("vanished");
                break;
            case < 0.20:
                Check("answer, client left", model, paths, question, tokens, await client.AskAsync(model, prompt, tokens, withIds: true, leaveAfter: random.Next(1, tokens + 1), cancellation: cancellation).ConfigureAwait(false));
                break;
            case < 0.28:
                Check("answer, slow reader", model, paths, question, tokens, await client.AskAsync(model, prompt, tokens, withIds: true, pause: TimeSpan.FromMilliseconds(random.Next(5, 30)), cancellation: cancellation).ConfigureAwait(false));
                break;
            case < 0.33:
                await RefusedAsync(client, random, cancellation).ConfigureAwait(false);
                break;
            default:
                Check("answer", model, paths, question, tokens, await client.AskAsync(model, prompt, tokens, withIds: true, cancellation: cancellation).ConfigureAwait(false));
                break;
        }
    }

    private void Check(string kind, string model, string[] paths, int question, int tokens, StreamedAnswer answer)
    {
        // A stream that waited long enough for a comment has its status; what is wrong then comes as an event.
        bool unknown = answer.Status == HttpStatusCode.NotFound || answer.Error?.StartsWith("There is no model", StringComparison.Ordinal) == true;
        if (unknown && model is Swapped or Passing)
        {
            _report.Count("unknown at that time");
        }
        else if (answer.Status is HttpStatusCode.ServiceUnavailable or HttpStatusCode.TooManyRequests)
        {
            _report.Count("refused, too many");
        }
        else if (answer.Error is not null || answer.Status != HttpStatusCode.OK)
        {
            _report.Fault($"{model}, question {question}: {(int)answer.Status} {answer.Error}");
        }
        else if (!paths.Any(p => answer.Ids.SequenceEqual(_expected[p, question].Take(answer.Ids.Count))))
        {
            _report.Fault($"{model}, question {question}: {string.Join(' ', answer.Ids)}; expected {string.Join(" or ", paths.Select(p => string.Join(' ', _expected[p, question].Take(tokens))))}");
        }
        else if (!answer.Left && (answer.Ids.Count != tokens || answer.Finish != "length"))
        {
            _report.Fault($"{model}, question {question}: {answer.Ids.Count} of {tokens} tokens, finish {answer.Finish ?? "none"}");
        }
        else
        {
            _report.Count(kind, answer.Ids.Count);
        }
    }

    private async Task RefusedAsync(CompletionClient client, Random random, CancellationToken cancellation)
    {
        (string body, HttpStatusCode expected) = random.Next(5) switch
        {
            0 => ("""{"model":"nobody","prompt":[5]}""", HttpStatusCode.NotFound),
            1 => ("""{"prompt":[5""", HttpStatusCode.BadRequest),
            2 => ("""{"prompt":[-1]}""", HttpStatusCode.BadRequest),
            3 => ("""{"prompt":[5],"temperature":-3}""", HttpStatusCode.BadRequest),
            _ => ($$"""{"prompt":[{{string.Join(',', Enumerable.Repeat(5, 100_000))}}]}""", HttpStatusCode.BadRequest),
        };
        HttpStatusCode status = await client.PostAsync("v1/completions", body, cancellation).ConfigureAwait(false);
        if (status == expected)
        {
            _report.Count("bad request refused");
        }
        else
        {
            _report.Fault($"{body[..Math.Min(60, body.Length)]}: {(int)status}, expected {(int)expected}");
        }
    }

    private static string Load(string name, string path) => JsonSerializer.Serialize(new { lora_name = name, lora_path = path, load_inplace = true });

    private static string Unload(string name) => JsonSerializer.Serialize(new { lora_name = name });

    // Loads, replaces and takes away, also what cannot be loaded.
    private async Task ChangesAsync(int seed, CancellationToken cancellation)
    {
        var random = new Random(seed);
        using var client = new CompletionClient(_server.Address);
        while (!cancellation.IsCancellationRequested)
        {
            using (await _gate.EnterAsync(cancellation).ConfigureAwait(false))
            {
                string version = _versions[random.Next(2)];
                (string path, string body, HttpStatusCode[] expected) = random.Next(6) switch
                {
                    0 or 1 => ("load", Load(Swapped, version), [HttpStatusCode.OK]),
                    2 => ("load", Load(Passing, _passing), [HttpStatusCode.OK]),
                    3 => ("load", Load(Swapped, Path.Combine(_passing, "nothing")), [HttpStatusCode.BadRequest, HttpStatusCode.NotFound]),
                    4 => ("unload", Unload(Passing), [HttpStatusCode.OK, HttpStatusCode.NotFound]),
                    _ => ("unload", Unload(Swapped), new[] { HttpStatusCode.OK, HttpStatusCode.NotFound }),
                };
                HttpStatusCode status = await client.PostAsync($"v1/{path}_lora_adapter", body, cancellation).ConfigureAwait(false);
                if (expected.Contains(status))
                {
                    _report.Count($"{path}: {(int)status}");
                }
                else
                {
                    _report.Fault($"{path} {body}: {(int)status}");
                }
            }

            await Task.Delay(random.Next(5, 80), cancellation).ConfigureAwait(false);
        }
    }
}

using LoraSharp.Benchmarks.Serving;

namespace LoraSharp.Server.Tests;

/// <summary>Tests that count what is left in the process's memory: nothing else runs beside them.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class AloneCollection
{
    public const string Name = "alone";
}

/// <summary>The short form of <c>serve-endurance</c>, and the load generator against a real server.</summary>
[Collection(AloneCollection.Name)]
public sealed class EnduranceTests
{
    private static string Model => Fixtures.Path("models/llama");

    private static (string Name, string Path)[] Adapters => [.. new[] { "a", "b", "c" }.Select(n => (n, Fixtures.Path("mixed_batch/" + n)))];

    [Fact]
    public async Task Mixed_load_with_adapters_that_come_and_go_gives_no_wrong_answer_and_leaves_nothing_behind()
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Model, Device = "cpu" });
        var options = new EnduranceOptions { Seconds = 15, Answers = 150, Changes = 24, Rests = 6, Vocabulary = 160, Prompt = 20, Answer = 24, Limits = new() { MaxBatch = 6, MaxWaiting = 64, CacheTokens = 200, MaxLoadedAdapters = 2 } };

        EnduranceReport report = await EnduranceRun.RunAsync(loaded, Adapters, options, cancellation: TestContext.Current.CancellationToken);

        Assert.True(report.WrongCount == 0, report.ToText());
        Assert.True(report.Leaks(growth: 0.15).Count == 0, report.ToText());
        Assert.True(report.Answers >= options.Answers && report.Changes >= options.Changes, report.ToText());
        foreach (string kind in (string[])["answer", "answer, client left", "answer, slow reader", "vanished", "bad request refused", "load: 200", "unload: 200"])
        {
            Assert.True(report.Counts.ContainsKey(kind), $"{kind} did not happen:\n{report.ToText()}");
        }
    }

    [Fact]
    public async Task A_load_in_bursts_is_answered_and_measured()
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Model, Device = "cpu" });
        await using BenchServer server = await BenchServer.StartAsync(loaded, new());
        foreach ((string name, string path) in Adapters)
        {
            await server.Engine.RegisterAsync(name, path);
        }

        using var client = new CompletionClient(server.Address);
        var profile = new LoadProfile { Models = ["a", "b", "c", BenchServer.BaseName], Seconds = 2, Rate = 15, Burst = 4, BurstEvery = 1, Prompt = 8, Answer = 8, Shared = 4, Longest = 3, Vocabulary = 160, Cancelled = 0.2, Slow = 0 };

        LoadSummary open = await LoadRun.OpenAsync(client, profile, TestContext.Current.CancellationToken);
        LoadSummary closed = await LoadRun.ClosedAsync(client, profile with { Seconds = 1 }, users: 3, TestContext.Current.CancellationToken);

        PlannedRequest[] plan = [.. profile.Plan()];
        Assert.Equal(plan.Length, open.Requests);
        Assert.True(open.Errors.Count == 0, open.ToText());
        Assert.True(open.Left > 0 && open.Answered > open.Left, open.ToText());
        Assert.Equal(plan.Sum(p => p.LeaveAfter ?? p.Answer), open.AnswerTokens);
        Assert.InRange(open.TimeToFirstToken.P50, 1e-5, open.TimeToFirstToken.P99);
        Assert.True(closed.Answered == closed.Requests && closed.Requests >= 3, closed.ToText());
    }

    [Fact]
    public void A_plan_is_the_same_for_the_same_seed_and_follows_the_power_law()
    {
        var profile = new LoadProfile { Models = [.. Enumerable.Range(0, 10).Select(i => $"m{i}")], Seconds = 2000, Rate = 2, Burst = 5, BurstEvery = 20 };
        PlannedRequest[] plan = [.. profile.Plan()];
        int[] counts = [.. profile.Models.Select(m => plan.Count(p => p.Model == m))];
        double inBursts = plan.Count(p => p.At % 20 < 2);

        Assert.Equal(plan.Select(p => (p.At, p.Model, p.Answer)), profile.Plan().Select(p => (p.At, p.Model, p.Answer)));
        Assert.Equal(2 * 2000 * (0.9 + (0.1 * 5)), plan.Length, 300.0);
        Assert.InRange(counts[0] / (double)counts[9], 7, 14);
        Assert.InRange(inBursts / plan.Length, 0.32, 0.40);
        Assert.InRange(plan.Average(p => p.LeaveAfter is null ? 0 : 1), 0.03, 0.07);
        Assert.Equal(32, plan.Select(p => p.Answer).Order().ElementAt(plan.Length / 2), 3.0);
    }

    [Theory]
    [InlineData(new[] { 10L, 20, 20, 20, 20, 20 }, 100, 0, 0)]
    [InlineData(new[] { 20L, 20, 20, 20, 20, 21 }, 100, 0, 1)]
    [InlineData(new[] { 20L, 20, 20, 20, 20, 20 }, 130, 0, 1)]
    [InlineData(new[] { 20L, 20, 20, 20, 20, 20 }, 100, 7, 1)]
    public void Leaks_are_told(long[] tensors, double lastMegabytes, int used, int expected)
    {
        var report = new EnduranceReport();
        for (int i = 0; i < tensors.Length; i++)
        {
            report.Rests.Add(new RestFigures(i, tensors[i], i >= 4 ? lastMegabytes : 100, 10, i == 5 ? used : 0, 30, i));
        }

        Assert.Equal(expected, report.Leaks().Count);
    }
}

using LoraSharp.Formats;
using LoraSharp.Serving;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Serving;

/// <summary>Adapters that come, go, are replaced and make room while requests run. Counts live tensors, so nothing may run beside.</summary>
[CollectionDefinition(nameof(AdapterShelfTests), DisableParallelization = true)]
[Collection(nameof(AdapterShelfTests))]
public sealed class AdapterShelfTests
{
    private static readonly string[] Names = ["all_linear", "plain_qv", "rslora", "patterns"];

    private static string PathOf(string adapter) => Fixtures.Path("adapters/" + adapter);

    [Fact]
    public async Task Coming_going_failing_and_leaving_leaves_nothing_behind()
    {
        await using var bench = new EngineBench(Fixtures.Path("models/llama"), Names);
        using InferenceEngine engine = bench.Served.CreateEngine(new EngineLimits { MaxLoadedAdapters = 2, MaxBatch = 3, CacheTokens = 200 });
        foreach (string name in Names)
        {
            await engine.RegisterAsync(name, PathOf(name));
        }

        var counts = new List<long>();
        for (int round = 0; round < 6; round++)
        {
            var random = new Random(round);
            await Task.WhenAll(Enumerable.Range(0, 40).Select(i => Swallow(random.Next(6) switch
            {
                0 => engine.LoadAsync("passing", PathOf(Names[random.Next(4)])),
                1 => engine.LoadAsync("passing", PathOf("gpt2_conv1d")),
                2 => engine.UnloadAsync("passing"),
                3 => EngineBench.RunAsync(engine, new Job("passing", [5, 6, 7], 6, 0), most: 2),
                _ => EngineBench.RunAsync(engine, new Job(Names[random.Next(4)], [5, 6, random.Next(100)], random.Next(1, 9), random.Next(3)), random.Next(2) == 0 ? 1 : 100),
            })));
            await Swallow(engine.UnloadAsync("passing"));
            foreach (string name in Names)
            {
                Assert.Equal(bench.Expected(new Job(name, [9, 8, 7], 4, 0)), await EngineBench.RunAsync(engine, new Job(name, [9, 8, 7], 4, 0)));
            }

            while (engine.Status is { Running: > 0 } or { Waiting: > 0 } or { Blocks.Used: > 0 })
            {
                await Task.Delay(1, TestContext.Current.CancellationToken);
            }

            Assert.Equal(2, bench.Served.Adapters.Adapters.Count);
            Assert.Equal(2, engine.Status.Adapters.OnDevice);
            counts.Add(Live());
        }

        Assert.Single(counts.Skip(1).Distinct());
    }

    [Fact]
    public async Task A_replaced_adapter_goes_on_where_it_runs_and_the_new_one_answers_from_then_on()
    {
        await using var bench = new EngineBench(Fixtures.Path("models/llama"), Names);
        using InferenceEngine engine = bench.Served.CreateEngine(new EngineLimits { MaxLoadedAdapters = 4 });
        await engine.LoadAsync("x", PathOf("all_linear"));
        var request = new InferenceRequest { Adapter = "x", Prompt = [5, 6, 7], Options = EngineBench.Options(30) };
        var tokens = new List<int>();
        await foreach (TokenUpdate update in engine.GenerateAsync(request, TestContext.Current.CancellationToken))
        {
            tokens.Add(update.Token!.Value);
            if (tokens.Count == 3)
            {
                await engine.LoadAsync("x", PathOf("rslora"));
                Assert.Equal(bench.Expected(new Job("rslora", [5, 6, 7], 30, 0)), await EngineBench.RunAsync(engine, new Job("x", [5, 6, 7], 30, 0)));
            }
        }

        Assert.Equal(bench.Expected(new Job("all_linear", [5, 6, 7], 30, 0)), tokens);
        Assert.Equal(PathOf("rslora"), Assert.Single(engine.Adapters).Path);
    }

    [Fact]
    public async Task A_load_that_fails_leaves_the_old_one_and_tells_who_asked()
    {
        await using var bench = new EngineBench(Fixtures.Path("models/llama"), Names);
        using InferenceEngine engine = bench.Served.CreateEngine(new EngineLimits());
        await engine.LoadAsync("x", PathOf("rslora"));

        LoraSharpException misfit = await Assert.ThrowsAnyAsync<LoraSharpException>(() => engine.LoadAsync("x", PathOf("gpt2_conv1d")));
        await Assert.ThrowsAnyAsync<LoraSharpException>(() => engine.LoadAsync("x", "/no/such/folder"));

        Assert.Contains("does not fit", misfit.Message, StringComparison.Ordinal);
        Assert.Equal(bench.Expected(new Job("rslora", [4, 5], 9, 0)), await EngineBench.RunAsync(engine, new Job("x", [4, 5], 9, 0)));

        // Registered without being looked at: the first request hears of it, the server goes on.
        await engine.RegisterAsync("broken", PathOf("gpt2_conv1d"));
        await Assert.ThrowsAnyAsync<LoraSharpException>(() => EngineBench.RunAsync(engine, new Job("broken", [4, 5], 9, 0)));
        await Assert.ThrowsAsync<UnknownAdapterException>(() => EngineBench.RunAsync(engine, new Job("nobody", [4, 5], 9, 0)));
        Assert.Equal(bench.Expected(new Job(null, [4, 5], 9, 0)), await EngineBench.RunAsync(engine, new Job(null, [4, 5], 9, 0)));
    }

    [Fact]
    public async Task Adapters_move_between_device_host_and_disk_by_their_last_use_and_pinned_ones_stay()
    {
        await using var bench = new EngineBench(Fixtures.Path("models/llama"), Names);
        using InferenceEngine engine = bench.Served.CreateEngine(new EngineLimits { MaxLoadedAdapters = 2, AdapterHostMemory = 1 << 20 });
        foreach (string name in Names)
        {
            await engine.RegisterAsync(name, PathOf(name));
        }

        await engine.PinAsync("all_linear");
        foreach (string name in Names[..3])
        {
            await engine.WarmAsync(name);
        }

        Assert.Equal([AdapterPlace.Device, AdapterPlace.Disk, AdapterPlace.Host, AdapterPlace.Device], engine.Adapters.OrderBy(a => a.Name, StringComparer.Ordinal).Select(a => a.Place));
        Assert.True(engine.FindAdapter("all_linear")!.IsPinned);
        Assert.Equal(bench.Expected(new Job("plain_qv", [4, 5], 9, 0)), await EngineBench.RunAsync(engine, new Job("plain_qv", [4, 5], 9, 0)));
        Assert.Equal(AdapterPlace.Device, engine.FindAdapter("all_linear")!.Place);
        Assert.Equal(AdapterPlace.Host, engine.FindAdapter("rslora")!.Place);
    }

    private static async Task Swallow(Task task)
    {
        try
        {
            await task;
        }
        catch (LoraSharpException)
        {
            // Loads that don't fit, and names that are gone by then.
        }
    }

    private static long Live()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return Tensor.TotalCount;
    }
}

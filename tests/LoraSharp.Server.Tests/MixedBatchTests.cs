using System.Net;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Server.Tests;

/// <summary>One batch of base and adapters against PEFT's logits, and against the plain generator.</summary>
public sealed class MixedBatchTests
{
    private static readonly string[] Names = ["a", "b", "c"];

    private static Dictionary<string, string> Adapters => Names.ToDictionary(n => n, n => Fixtures.Path("mixed_batch/" + n));

    [Fact]
    public async Task Rows_sent_side_by_side_give_the_reference_token_and_its_log_probability()
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"), Adapters);
        string[] rows = [.. JsonNode.Parse(await File.ReadAllTextAsync(Fixtures.Path("mixed_batch/rows.json"), TestContext.Current.CancellationToken))!.AsArray().Select(n => (string)n!)];
        using var golden = SafetensorsFile.Open(Fixtures.Path("mixed_batch/golden.safetensors"));
        long[] ids = Longs(golden, "input_ids");
        float[] logits = Floats(golden, "logits");
        int length = (int)golden.Tensors["logits"].Shape[1];
        int v = (int)golden.Tensors["logits"].Shape[2];

        int[] order = [.. Enumerable.Range(0, 3 * rows.Length).Select(i => i % rows.Length)];
        new Random(4).Shuffle(order);
        foreach (int[] four in order.Chunk(4))
        {
            await Task.WhenAll(four.Select(async row =>
            {
                (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/completions", new JsonObject
                {
                    ["model"] = rows[row] == "__base__" ? "base" : rows[row],
                    ["prompt"] = new JsonArray([.. ids.Skip(row * length).Take(length).Select(i => (JsonNode)i)]),
                    ["max_tokens"] = 1,
                    ["temperature"] = 0,
                    ["logprobs"] = 1,
                    ["return_tokens_as_token_ids"] = true,
                });
                Assert.Equal(HttpStatusCode.OK, status);
                float[] last = logits[(((row * length) + length - 1) * v)..(((row * length) + length) * v)];
                int best = Array.IndexOf(last, last.Max());
                double expected = last[best] - last.Max() - Math.Log(last.Sum(l => Math.Exp(l - last.Max())));
                JsonNode got = body["choices"]![0]!["logprobs"]!;
                Assert.Equal($"token_id:{best}", (string?)got["tokens"]![0]);
                Assert.Equal(expected, (double)got["token_logprobs"]![0]!, 1e-4);
            }));
        }
    }

    [Fact]
    public async Task Random_mixes_of_adapters_lengths_and_arrivals_equal_the_plain_generator()
    {
        const int Requests = 24;
        var random = new Random(11);
        (string? Adapter, int[] Prompt, int Tokens)[] mix = [.. Enumerable.Range(0, Requests).Select(i => (
            i % 4 == 3 ? null : Names[i % 4],
            Enumerable.Range(0, random.Next(1, 20)).Select(_ => random.Next(3, 160)).ToArray(),
            random.Next(1, 24)))];
        var expected = new List<IReadOnlyList<int>>();
        using (LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Fixtures.Path("models/llama"), Device = "cpu" }))
        {
            foreach (string name in Names)
            {
                using Formats.Peft.AdapterFolder folder = Formats.Peft.AdapterFolder.Open(Adapters[name]);
                loaded.Adapters.Load(folder, name);
            }

            foreach ((string? adapter, int[] prompt, int tokens) in mix)
            {
                loaded.Adapters.Select(adapter is null ? [] : [(adapter, 1.0)]);
                expected.Add(new TextGenerator(loaded.Model).Generate(prompt, Options(tokens), cancellation: TestContext.Current.CancellationToken).TokenIds);
            }
        }

        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"), Adapters, limits: new EngineLimits { MaxBatch = 7 });
        IReadOnlyList<int>[] got = await Task.WhenAll(mix.Select(async (m, i) =>
        {
            await Task.Delay(i % 5 * 3, TestContext.Current.CancellationToken);
            var tokens = new List<int>();
            await foreach (TokenUpdate update in server.Engine.GenerateAsync(new InferenceRequest { Adapter = m.Adapter, Prompt = m.Prompt, Options = Options(m.Tokens) }, TestContext.Current.CancellationToken))
            {
                tokens.Add(update.Token!.Value);
            }

            return (IReadOnlyList<int>)tokens;
        }));

        for (int i = 0; i < Requests; i++)
        {
            Assert.Equal(expected[i], got[i]);
        }

        Assert.Equal(0, server.Engine.Status.Waiting);
    }

    [Fact]
    public async Task An_adapter_taken_away_while_it_runs_finishes_and_its_tensors_are_freed()
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"));
        await server.Engine.LoadAsync("x", Adapters["b"]);
        int loaded = server.Loaded.Adapters.Adapters.Count;
        var tokens = new List<int>();
        await foreach (TokenUpdate update in server.Engine.GenerateAsync(new InferenceRequest { Adapter = "x", Prompt = [5, 6, 7], Options = Options(40) }, TestContext.Current.CancellationToken))
        {
            tokens.Add(update.Token!.Value);
            if (tokens.Count == 3)
            {
                await server.Engine.UnloadAsync("x");
            }
        }

        Assert.Equal(1, loaded);
        Assert.Equal(40, tokens.Count);
        await Assert.ThrowsAsync<UnknownAdapterException>(() => server.Engine.UnloadAsync("x"));
        Assert.Empty(server.Loaded.Adapters.Adapters);
    }

    [Fact]
    public async Task A_load_that_fails_leaves_the_old_adapter()
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"), Adapters);

        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/load_lora_adapter", new JsonObject { ["lora_name"] = "a", ["lora_path"] = Fixtures.Path("adapters/gpt2_conv1d") });

        Assert.Equal(HttpStatusCode.BadRequest, status);
        Assert.Contains("does not fit", (string?)body["error"]!["message"]);
        Assert.Contains(server.Engine.Adapters, a => a.Name == "a" && a.Path == Adapters["a"] && a.IsLoaded);
    }

    private static GenerationOptions Options(int tokens) => new() { MaxTokens = tokens, IgnoreEos = true };

    private static long[] Longs(SafetensorsFile file, string name) => System.Runtime.InteropServices.MemoryMarshal.Cast<byte, long>(file.Read(name).Slice(0, (int)file.Tensors[name].ByteCount)).ToArray();

    private static float[] Floats(SafetensorsFile file, string name) => System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(file.Read(name).Slice(0, (int)file.Tensors[name].ByteCount)).ToArray();
}

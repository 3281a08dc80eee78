using System.ClientModel;
using System.Net;
using System.Text.Json.Nodes;
using LoraSharp.Inference;
using OpenAI;
using OpenAI.Chat;

namespace LoraSharp.Server.Tests;

/// <summary>The server as OpenAI's clients see it, over the embedded model with its tokenizer and chat template.</summary>
public sealed class OpenAiTests
{
    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    [Fact]
    public async Task OpenAis_own_client_chats_with_and_without_a_stream()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, options: new ServerOptions { ModelName = "tiny", ApiKeys = ["secret"] });
        var client = new ChatClient("tiny", new ApiKeyCredential("secret"), new OpenAIClientOptions { Endpoint = new Uri(server.Client.BaseAddress!, "v1") });
        var options = new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = 12, IncludeLogProbabilities = true, TopLogProbabilityCount = 2 };

        ChatCompletion whole = await client.CompleteChatAsync([new UserChatMessage("Say hello.")], options, TestContext.Current.CancellationToken);
        var pieces = new List<string>();
        await foreach (StreamingChatCompletionUpdate update in client.CompleteChatStreamingAsync([new UserChatMessage("Say hello.")], options, TestContext.Current.CancellationToken))
        {
            pieces.AddRange(update.ContentUpdate.Select(p => p.Text));
        }

        Assert.Equal(whole.Content[0].Text, string.Concat(pieces));
        Assert.True(whole.Usage.InputTokenCount > 4);
        Assert.Equal(whole.Usage.OutputTokenCount, whole.ContentTokenLogProbabilities.Count);
        Assert.All(whole.ContentTokenLogProbabilities, p => Assert.True(p.LogProbability <= 0 && p.TopLogProbabilities.Count == 2));
        Assert.Equal(Plain("<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n", 12), whole.Content[0].Text);
    }

    [Fact]
    public async Task Completions_take_texts_and_ids_and_echo_the_prompt()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        const string Prompt = "Once upon a time";
        int[] ids = server.Loaded.Tokenizer.Encode(Prompt);

        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/completions", new JsonObject
        {
            ["prompt"] = new JsonArray(Prompt, new JsonArray([.. ids.Select(i => (JsonNode)i)])),
            ["max_tokens"] = 8,
            ["temperature"] = 0,
            ["echo"] = true,
            ["logprobs"] = 2,
        });

        Assert.Equal(HttpStatusCode.OK, status);
        JsonArray choices = body["choices"]!.AsArray();
        Assert.Equal(2, choices.Count);
        Assert.Equal((string?)choices[0]!["text"], (string?)choices[1]!["text"]);
        Assert.Equal(Prompt + Plain(Prompt, 8), (string?)choices[0]!["text"]);
        JsonArray scores = choices[0]!["logprobs"]!["token_logprobs"]!.AsArray();
        Assert.Equal(ids.Length + 8, scores.Count);
        Assert.Null(scores[0]);
        Assert.All(scores.Skip(1), s => Assert.True((double)s! <= 0));
        Assert.Equal(2 * ids.Length, (int)body["usage"]!["prompt_tokens"]!);
    }

    [Fact]
    public async Task Stop_strings_end_the_text_before_them()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        string plain = Plain("Once upon a time", 24);
        string stop = plain.Split(' ', StringSplitOptions.RemoveEmptyEntries)[3];

        (_, JsonObject body) = await server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = "Once upon a time", ["max_tokens"] = 24, ["temperature"] = 0, ["stop"] = stop });

        Assert.Equal(plain[..plain.IndexOf(stop, StringComparison.Ordinal)], (string?)body["choices"]![0]!["text"]);
        Assert.Equal("stop", (string?)body["choices"]![0]!["finish_reason"]);
    }

    [Fact]
    public async Task A_seed_gives_the_same_text_again()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        async Task<string?> Ask(int seed) => (string?)(await server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = "The river", ["max_tokens"] = 12, ["temperature"] = 1, ["seed"] = seed })).Body["choices"]![0]!["text"];

        string? first = await Ask(5);
        string?[] together = await Task.WhenAll(Ask(5), Ask(6), Ask(7), Ask(5));

        Assert.Equal(first, together[0]);
        Assert.Equal(first, together[3]);
        Assert.NotEqual(together[1], together[2]);
    }

    [Theory]
    [InlineData("""{"model":"nope","prompt":"x"}""", HttpStatusCode.NotFound, "There are: base")]
    [InlineData("""{"prompt":"x","temperature":-1}""", HttpStatusCode.BadRequest, "temperature is -1")]
    [InlineData("""{"prompt":"x","max_tokens":1.5}""", HttpStatusCode.BadRequest, "whole number")]
    [InlineData("""{"prompt":[9999999]}""", HttpStatusCode.BadRequest, "outside the vocabulary")]
    [InlineData("""{"prompt":[5,-1]}""", HttpStatusCode.BadRequest, "Token id -1 of the prompt is outside the vocabulary")]
    [InlineData("""{"prompt":{"a":1}}""", HttpStatusCode.BadRequest, "expected text or token ids")]
    [InlineData("""{"prompt":"x","stop":[1]}""", HttpStatusCode.BadRequest, "expected strings")]
    [InlineData("""{"max_tokens":1}""", HttpStatusCode.BadRequest, "prompt is missing")]
    [InlineData("""{"prompt":""", HttpStatusCode.BadRequest, "not valid JSON")]
    public async Task Bad_requests_are_refused_in_OpenAis_shape(string body, HttpStatusCode expected, string message)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);

        using HttpResponseMessage response = await server.Client.PostAsync("/v1/completions", Json(body), TestContext.Current.CancellationToken);
        JsonNode error = JsonNode.Parse(await response.Content.ReadAsStringAsync(TestContext.Current.CancellationToken))!["error"]!;

        Assert.Equal(expected, response.StatusCode);
        Assert.Contains(message, (string?)error["message"]);
        Assert.Equal(HttpStatusCode.OK, (await server.Client.GetAsync("/health", TestContext.Current.CancellationToken)).StatusCode);
    }

    [Fact]
    public async Task Prompts_over_the_context_and_bodies_over_the_limit_are_refused()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, options: new ServerOptions { ModelName = "base", MaxRequestBytes = 64 << 10 });

        (HttpStatusCode status, JsonObject body) = await server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = new JsonArray([.. Enumerable.Repeat((JsonNode)5, 600).Select(n => n.DeepClone())]) });
        using HttpResponseMessage huge = await server.Client.PostAsync("/v1/completions", Json(new string('x', 200_000)), TestContext.Current.CancellationToken);

        Assert.Equal(HttpStatusCode.BadRequest, status);
        Assert.Contains("context is 512", (string?)body["error"]!["message"]);
        Assert.Equal(HttpStatusCode.RequestEntityTooLarge, huge.StatusCode);
    }

    [Fact]
    public async Task A_client_that_leaves_frees_its_place()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model, limits: new Serving.EngineLimits { MaxBatch = 1 });
        using var leave = new CancellationTokenSource();
        Task gone = server.Client.PostAsync("/v1/completions", Json("""{"prompt":"The","max_tokens":400,"ignore_eos":true}"""), leave.Token);
        while (server.Engine.Status.Running == 0)
        {
            await Task.Delay(5, TestContext.Current.CancellationToken);
        }

        await leave.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => gone);
        (HttpStatusCode status, _) = await server.PostAsync("/v1/completions", new JsonObject { ["prompt"] = "The", ["max_tokens"] = 2 });

        Assert.Equal(HttpStatusCode.OK, status);
        Assert.True(server.Engine.Status.GeneratedTokens < 400);
    }

    private static StringContent Json(string body) => new(body, System.Text.Encoding.UTF8, "application/json");

    private static string Plain(string prompt, int tokens)
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = Model, Device = "cpu" });
        return new TextGenerator(loaded.Model, loaded.Tokenizer).Generate(loaded.Tokenizer.Encode(prompt), new GenerationOptions { MaxTokens = tokens, EosTokenIds = loaded.Generation.EosTokenIds }, cancellation: TestContext.Current.CancellationToken).Text;
    }
}

using System.ComponentModel;
using System.Net.Http.Json;
using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Extensions.AI;
using LoraSharp.Inference;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;

namespace LoraSharp.Server.Tests;

/// <summary>A model in this process behind Microsoft.Extensions.AI, and the sample that uses it so.</summary>
public sealed class ExtensionsAiTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public async Task The_client_answers_as_the_plain_generator_with_and_without_a_stream()
    {
        await using ServiceProvider services = Services();
        IChatClient chat = services.GetRequiredService<IChatClient>();
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 12, Instructions = "Be kind." };

        ChatResponse whole = await chat.GetResponseAsync("Say hello.", options, TestContext.Current.CancellationToken);
        List<ChatResponseUpdate> updates = [];
        await foreach (ChatResponseUpdate update in chat.GetStreamingResponseAsync("Say hello.", options, TestContext.Current.CancellationToken))
        {
            updates.Add(update);
        }

        LocalModel model = services.GetRequiredService<LocalModel>();
        int[] prompt = model.Tokenizer.Encode("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n", addSpecialTokens: false);
        using LoadedModel plain = EngineSetup.Load(new EngineOptions { Model = Model, Device = "cpu" });
        GeneratedText expected = new TextGenerator(plain.Model, plain.Tokenizer).Generate(prompt, new GenerationOptions { MaxTokens = 12, EosTokenIds = plain.Generation.EosTokenIds }, cancellation: TestContext.Current.CancellationToken);
        Assert.Equal(expected.Text, whole.Text);
        Assert.Equal(expected.Text, string.Concat(updates.Select(u => u.Text)));
        Assert.True(updates.Count > 3);
        Assert.Equal((prompt.Length, expected.TokenIds.Count), (whole.Usage!.InputTokenCount, whole.Usage.OutputTokenCount));
        Assert.Equal("tiny", whole.ModelId);
        Assert.Equal("tiny", chat.GetService<ChatClientMetadata>()!.DefaultModelId);
    }

    [Fact]
    public async Task ModelId_chooses_the_adapter_and_an_unknown_one_is_refused()
    {
        await using ServiceProvider services = Services();
        IChatClient chat = services.GetRequiredService<IChatClient>();
        async Task<string> Ask(string? adapter, int seed = 1) => (await chat.GetResponseAsync("Say hello.", new ChatOptions { ModelId = adapter, Temperature = 1, Seed = seed, MaxOutputTokens = 16 }, TestContext.Current.CancellationToken)).Text;

        string[] texts = await Task.WhenAll(Ask(null), Ask("tiny"), Ask("a"), Ask("b"), Ask("a"), Ask("a", 2));

        Assert.Equal(texts[0], texts[1]);
        Assert.Equal(texts[2], texts[4]);
        Assert.Equal(5, new HashSet<string>([texts[0], texts[2], texts[3], texts[5], "x"]).Count);
        await Assert.ThrowsAsync<UnknownAdapterException>(() => Ask("c"));
    }

    [Fact]
    public async Task A_response_format_gives_objects_of_the_callers_own_type()
    {
        await using ServiceProvider services = Services();
        IChatClient chat = services.GetRequiredService<IChatClient>();

        ChatResponse<Weather> typed = await chat.GetResponseAsync<Weather>("How is it?", new ChatOptions { Temperature = 1, Seed = 5, MaxOutputTokens = 200 }, cancellationToken: TestContext.Current.CancellationToken);
        ChatResponse any = await chat.GetResponseAsync("How is it?", new ChatOptions { Temperature = 0, ResponseFormat = ChatResponseFormat.Json, MaxOutputTokens = 400, StopSequences = ["]"] }, TestContext.Current.CancellationToken);

        Assert.True(Enum.IsDefined(typed.Result.Sky));
        Assert.StartsWith("{", any.Text);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_function_is_called_and_its_result_comes_back(bool streaming)
    {
        await using ServiceProvider services = Services();
        using IChatClient chat = new ChatClientBuilder(services.GetRequiredService<EngineChatClient>()).UseFunctionInvocation().Build();
        var called = new List<(Place Place, int Days)>();
        [Description("The weather to come.")]
        string Forecast([Description("Where.")] Place place, int days)
        {
            called.Add((place, days));
            return "sun";
        }

        AIFunction function = AIFunctionFactory.Create(Forecast, "forecast");
        var options = new ChatOptions { Tools = [function], ToolMode = ChatToolMode.RequireSpecific("forecast"), Temperature = 1, Seed = 9, MaxOutputTokens = 120 };
        ChatResponse response = streaming
            ? await chat.GetStreamingResponseAsync("Will it rain?", options, TestContext.Current.CancellationToken).ToChatResponseAsync(TestContext.Current.CancellationToken)
            : await chat.GetResponseAsync("Will it rain?", options, TestContext.Current.CancellationToken);

        (Place place, int days) = Assert.Single(called);
        FunctionCallContent call = Assert.Single(response.Messages.SelectMany(m => m.Contents).OfType<FunctionCallContent>());
        FunctionResultContent result = Assert.Single(response.Messages.SelectMany(m => m.Contents).OfType<FunctionResultContent>());
        Assert.Equal(("forecast", call.CallId, "sun"), (call.Name, result.CallId, result.Result?.ToString()));
        Assert.Equal(place.ToString(), call.Arguments!["place"]!.ToString());
        Assert.Equal(days, ((JsonElement)call.Arguments["days"]!).GetInt32());
        Assert.Equal(ChatRole.Assistant, response.Messages[^1].Role);
    }

    [Fact]
    public void A_conversation_with_calls_becomes_what_templates_expect()
    {
        JsonArray json = ChatMessageJson.Of(
        [
            new ChatMessage(ChatRole.User, "Weather?"),
            new ChatMessage(ChatRole.Assistant, [new TextContent("I look."), new FunctionCallContent("1", "forecast", new Dictionary<string, object?> { ["city"] = "Bonn" })]),
            new ChatMessage(ChatRole.Tool, [new FunctionResultContent("1", new { sky = "grey" })]),
        ],
        "Be brief.");

        Assert.True(JsonNode.DeepEquals(json, JsonNode.Parse("""
            [{"role":"system","content":"Be brief."},{"role":"user","content":"Weather?"},
             {"role":"assistant","content":"I look.","tool_calls":[{"id":"1","type":"function","function":{"name":"forecast","arguments":{"city":"Bonn"}}}]},
             {"role":"tool","tool_call_id":"1","name":"forecast","content":"{\"sky\":\"grey\"}"}]
            """)), json.ToJsonString());
    }

    [Fact]
    public async Task The_generator_gives_vectors()
    {
        await using ServiceProvider services = Services();
        var generator = services.GetRequiredService<IEmbeddingGenerator<string, Embedding<float>>>();

        GeneratedEmbeddings<Embedding<float>> made = await generator.GenerateAsync(["one", "two words"], new EmbeddingGenerationOptions { ModelId = "a", Dimensions = 32 }, TestContext.Current.CancellationToken);

        Assert.Equal(2, made.Count);
        Assert.All(made, e => Assert.Equal(1, e.Vector.ToArray().Sum(x => x * x), 1e-4f));
        Assert.True(made.Usage!.InputTokenCount >= 3);
    }

    [Fact]
    public async Task The_sample_answers()
    {
        Assert.True(File.ReadAllLines(Path.Combine(Fixtures.Root(), "samples", "MinimalApi", "Program.cs")).Length < 60);
        await using WebApplication app = MinimalApi.Create(["--urls=http://127.0.0.1:0", $"--model={Model}", $"--support={RandomAdapter.Write(Model, Path.Combine(_folder, "s"), 4, 1)}", $"--sql={RandomAdapter.Write(Model, Path.Combine(_folder, "q"), 4, 2)}"]);
        await app.StartAsync(TestContext.Current.CancellationToken);
        using var client = new HttpClient { BaseAddress = new Uri(app.Urls.First()) };
        async Task<string> Post(string route, object body)
        {
            using HttpResponseMessage answer = await client.PostAsJsonAsync(route, body, TestContext.Current.CancellationToken);
            string text = await answer.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
            Assert.True(answer.IsSuccessStatusCode, text);
            return text;
        }

        Assert.NotEmpty(await Post("/ask/support", new { text = "My parcel is late." }));
        Assert.Contains("data: ", await Post("/stream/sql", new { text = "All rows" }));
        Assert.Contains("\"topic\"", await Post("/sort", new { text = "I paid twice." }));
        string stock = await Post("/stock", new { text = "Is there a lamp?" });
        Assert.Contains("inStock", stock, StringComparison.OrdinalIgnoreCase);
        Assert.Equal(2, JsonNode.Parse(await Post("/embed", new[] { "a", "b" }))!.AsArray().Count);
    }

    private ServiceProvider Services() => new ServiceCollection().AddLoraSharp(options =>
    {
        options.Model = Model;
        options.ModelName = "tiny";
        options.Device = "cpu";
        options.Adapters["a"] = RandomAdapter.Write(Model, Path.Combine(_folder, "a"), 4, 1);
        options.Adapters["b"] = RandomAdapter.Write(Model, Path.Combine(_folder, "b"), 4, 2);
    }).BuildServiceProvider();

    private sealed record Weather(Sky Sky, bool IsWindy);

    private enum Place
    {
        Bonn,
        Oslo,
    }

    private enum Sky
    {
        Blue,
        Grey,
    }
}

using System.ClientModel;
using System.ClientModel.Primitives;
using OpenAI;
using OpenAI.Chat;
using OpenAI.Models;

namespace LoraSharp.Server.Tests;

/// <summary>OpenAI's .NET library against the running server, beyond plain chats.</summary>
public sealed class OpenAiClientTests : IAsyncLifetime
{
    private RunningServer? _server;

    private RunningServer Server => _server!;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public async ValueTask InitializeAsync() => _server = await RunningServer.StartAsync(
        Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base"), options: new ServerOptions { ModelName = "tiny", ApiKeys = ["secret"] });

    public ValueTask DisposeAsync() => Server.DisposeAsync();

    [Fact]
    public async Task Models_are_listed_and_found()
    {
        var client = new OpenAIModelClient(new ApiKeyCredential("secret"), Options());

        OpenAIModelCollection models = await client.GetModelsAsync(Cancellation);
        OpenAIModel one = await client.GetModelAsync("tiny", Cancellation);

        Assert.Equal("tiny", Assert.Single(models).Id);
        Assert.Equal("lorasharp", one.OwnedBy);
    }

    [Fact]
    public async Task Errors_carry_status_and_message()
    {
        ClientResultException wrongKey = await Assert.ThrowsAsync<ClientResultException>(() => Chat(key: "wrong").CompleteChatAsync([new UserChatMessage("x")], new ChatCompletionOptions(), Cancellation));
        ClientResultException unknown = await Assert.ThrowsAsync<ClientResultException>(() => Chat(model: "nobody").CompleteChatAsync([new UserChatMessage("x")], new ChatCompletionOptions(), Cancellation));
        ClientResultException tooHot = await Assert.ThrowsAsync<ClientResultException>(() => Chat().CompleteChatAsync([new UserChatMessage("x")], new ChatCompletionOptions { Temperature = -1 }, Cancellation));

        Assert.Equal((401, 404, 400), (wrongKey.Status, unknown.Status, tooHot.Status));
        Assert.Contains("There are: tiny", unknown.Message);
        Assert.Contains("temperature is -1", tooHot.Message);
    }

    [Fact]
    public async Task A_cancelled_stream_ends_the_work()
    {
        using var leave = new CancellationTokenSource();
        int updates = 0;
        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            await foreach (StreamingChatCompletionUpdate _ in Chat().CompleteChatStreamingAsync([new UserChatMessage("Say hello.")], new ChatCompletionOptions { MaxOutputTokenCount = 450 }, leave.Token))
            {
                if (++updates == 2)
                {
                    await leave.CancelAsync();
                }
            }
        });
        for (int i = 0; i < 500 && Server.Engine.Status.Running > 0; i++)
        {
            await Task.Delay(10, Cancellation);
        }

        Assert.Equal(0, Server.Engine.Status.Running);
    }

    [Fact]
    public async Task A_hundred_at_a_time_are_each_answered_right()
    {
        ChatClient client = Chat();
        async Task<string> Ask(int tokens)
        {
            ChatCompletion answer = await client.CompleteChatAsync([new UserChatMessage("Say hello.")], new ChatCompletionOptions { Temperature = 0, MaxOutputTokenCount = tokens }, Cancellation);
            return string.Concat(answer.Content.Select(c => c.Text));
        }

        string longest = await Ask(12);
        string[] answers = await Task.WhenAll(Enumerable.Range(0, 100).Select(i => Ask(1 + (i % 12))));

        Assert.All(answers, a => Assert.StartsWith(a, longest));
        Assert.Equal(longest, answers[11]);
    }

    private ChatClient Chat(string key = "secret", string model = "tiny") => new(model, new ApiKeyCredential(key), Options());

    private OpenAIClientOptions Options() => new() { Endpoint = new Uri(Server.Client.BaseAddress!, "v1"), RetryPolicy = new ClientRetryPolicy(0) };
}

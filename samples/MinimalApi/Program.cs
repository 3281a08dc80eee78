// One base model with two adapters behind a minimal API. Try it:
//   dotnet run --project samples/MinimalApi -- --model SmolLM2-135M-Instruct --support runs/support --sql runs/sql
//   curl localhost:5000/ask/support -H "Content-Type: application/json" -d '{"text": "My parcel is late."}'
using System.ComponentModel;
using LoraSharp.Extensions.AI;
using Microsoft.Extensions.AI;

await MinimalApi.Create(args).RunAsync();

/// <summary>The application, apart from its running, so that a test can start it too.</summary>
public static class MinimalApi
{
    public static WebApplication Create(string[] args)
    {
        WebApplicationBuilder builder = WebApplication.CreateBuilder(args);
        IConfiguration settings = builder.Configuration;
        builder.Services.AddLoraSharp(options =>
        {
            options.Model = settings["model"] ?? "";
            options.Adapters["support"] = settings["support"] ?? "";
            options.Adapters["sql"] = settings["sql"] ?? "";
        });
        builder.Services.AddChatClient(services => services.GetRequiredService<EngineChatClient>()).UseFunctionInvocation();
        WebApplication app = builder.Build();

        app.MapPost("/ask/{adapter}", async (string adapter, Question question, IChatClient chat, CancellationToken left) =>
            (await chat.GetResponseAsync(question.Text, new ChatOptions { ModelId = adapter, MaxOutputTokens = 60 }, left)).Text);

        app.MapPost("/stream/{adapter}", (string adapter, Question question, IChatClient chat, CancellationToken left) =>
            TypedResults.ServerSentEvents(chat.GetStreamingResponseAsync(question.Text, new ChatOptions { ModelId = adapter, MaxOutputTokens = 60 }, left).Select(update => update.Text)));

        app.MapPost("/sort", async (Question question, IChatClient chat, CancellationToken left) =>
            (await chat.GetResponseAsync<Ticket>(question.Text, new ChatOptions { ModelId = "support" }, cancellationToken: left)).Result);

        app.MapPost("/stock", async (Question question, IChatClient chat, CancellationToken left) =>
            await chat.GetResponseAsync(question.Text, new ChatOptions { Tools = [AIFunctionFactory.Create(InStock)], ToolMode = ChatToolMode.RequireAny, MaxOutputTokens = 60 }, left));

        app.MapPost("/embed", (string[] texts, IEmbeddingGenerator<string, Embedding<float>> embeddings, CancellationToken left) => embeddings.GenerateAsync(texts, cancellationToken: left));
        return app;
    }

    [Description("How many of an article are in stock.")]
    private static int InStock(Article article) => article == Article.Lamp ? 3 : 0;
}

public sealed record Question(string Text);

public sealed record Ticket(Topic Topic, bool IsUrgent);

public enum Topic { Delivery, Payment, Other }

public enum Article { Lamp, Chair }

using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using LoraSharp.Server.Access;
using LoraSharp.Server.Telemetry;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;

namespace LoraSharp.Server;

/// <summary>One HTTP request on its way: who sends it, what it asked for and used. Everything that computes goes through it.</summary>
internal sealed class RequestScope(string id, Caller caller, string route, ServedModel model, ServerOptions options, ServerMetrics metrics, TimeProvider clock)
{
    private readonly long _started = clock.GetTimestamp();
    private long _firstToken;
    private int _generated;

    /// <summary>Cancelled when the client leaves; <see cref="HttpContext.RequestAborted"/> is so at the deadline too.</summary>
    public required CancellationToken Gone { get; init; }

    /// <summary>What an error is to the client.</summary>
    public required Func<Exception, ApiError> Explain { get; init; }

    /// <summary>The request's id, in the answer's <c>x-request-id</c> and in the log.</summary>
    public string Id => id;

    public Caller Caller => caller;

    public TimeProvider Clock => clock;

    /// <summary>How long a stream may be silent.</summary>
    public TimeSpan KeepAlive => options.StreamKeepAlive;

    /// <summary>When it came, Unix seconds.</summary>
    public long Created { get; } = clock.GetUtcNow().ToUnixTimeSeconds();

    public string Route => route;

    /// <summary>What it does, as OpenTelemetry calls it.</summary>
    public string Operation => route switch
    {
        "/v1/chat/completions" => "chat",
        "/v1/embeddings" => "embeddings",
        _ => "text_completion",
    };

    /// <summary>The code of an error that came when the status was sent already; null for none.</summary>
    public string? Fault { get; set; }

    /// <summary>The base's or adapter's name once it is known.</summary>
    public string? Model { get; private set; }

    public int PromptTokens { get; private set; }

    public int GeneratedTokens => Volatile.Read(ref _generated);

    public TimeSpan Elapsed => clock.GetElapsedTime(_started);

    /// <summary>From the request's coming to its first token; null before.</summary>
    public TimeSpan? FirstToken => Volatile.Read(ref _firstToken) is var at and > 0 ? clock.GetElapsedTime(_started, at) : null;

    public static RequestScope Of(HttpContext context) => context.Features.GetRequiredFeature<RequestScope>();

    /// <summary>Names of the models there are for this caller, the base first.</summary>
    public IEnumerable<string> Models => model.Engine.Adapters.Select(a => a.Name).Where(caller.MaySee).Prepend(caller.Key.Base ? options.ModelName : null).OfType<string>();

    /// <summary>The adapter that a request's <c>model</c> names; null for the base. What the caller may not use is not there.</summary>
    /// <exception cref="ApiError">404.</exception>
    public string? Choose(string? name)
    {
        name ??= options.ModelName;
        bool isBase = name == options.ModelName;
        if (isBase ? !caller.Key.Base : !caller.MaySee(name) || model.Engine.FindAdapter(name) is null)
        {
            throw NotFound(name);
        }

        Model = name;
        return isBase ? null : name;
    }

    public ApiError NotFound(string name)
    {
        const int Most = 50;
        string[] there = [.. Models.Take(Most + 1)];
        string list = there.Length == 0 ? "There are none for this key." : $"There are: {string.Join(", ", there.Take(Most))}{(there.Length > Most ? ", …" : "")}.";
        return new ApiError(StatusCodes.Status404NotFound, $"There is no model '{ApiError.Shorten(name)}'. {list}", "model", "model_not_found");
    }

    /// <summary>Lets the prompts in: they must fit the context and the caller's allowance.</summary>
    public void Admit(IReadOnlyCollection<IReadOnlyList<int>> prompts)
    {
        foreach (IReadOnlyList<int> prompt in prompts)
        {
            if (prompt.Count >= model.Engine.MaxLength)
            {
                throw new ApiError(StatusCodes.Status400BadRequest, $"The prompt has {prompt.Count} tokens; the model's context is {model.Engine.MaxLength}, with at least one for the answer. Shorten it.", null, "context_length_exceeded");
            }
        }

        int tokens = prompts.Sum(p => p.Count);
        caller.Admit(tokens);
        PromptTokens += tokens;
    }

    /// <summary>
    /// Does something for each of the request's sequences side by side. When one fails, the others end at once: nobody gets what
    /// they would have said.
    /// </summary>
    /// <exception cref="ApiError">There are more than could ever wait.</exception>
    public async Task<T[]> SideBySideAsync<T>(IReadOnlyList<InferenceRequest> requests, Func<InferenceRequest, int, CancellationToken, Task<T>> work, CancellationToken cancellation)
    {
        if (requests.Count > model.Engine.Limits.MaxWaiting)
        {
            throw ApiError.Invalid("n", $"The request asks for {requests.Count} sequences (prompts times n); this server's queue holds {model.Engine.Limits.MaxWaiting}. Send fewer.");
        }

        using var all = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        ExceptionDispatchInfo? first = null;
        async Task<T> One(InferenceRequest request, int index)
        {
            try
            {
                return await work(request, index, all.Token).ConfigureAwait(false);
            }
            catch (Exception error)
            {
                // What the others then end with is no news.
                Interlocked.CompareExchange(ref first, ExceptionDispatchInfo.Capture(error), null);
                await all.CancelAsync().ConfigureAwait(false);
                throw;
            }
        }

        try
        {
            return await Task.WhenAll(requests.Select(One)).ConfigureAwait(false);
        }
        catch (Exception) when (first is not null)
        {
            first.Throw();
            throw;
        }
    }

    /// <summary>Generates and counts what comes.</summary>
    public async IAsyncEnumerable<TokenUpdate> GenerateAsync(InferenceRequest request, [EnumeratorCancellation] CancellationToken cancellation)
    {
        using var generation = new GenerationSpan(this, metrics, request);
        try
        {
            await using ConfiguredCancelableAsyncEnumerable<TokenUpdate>.Enumerator updates = model.Engine.GenerateAsync(request, cancellation).ConfigureAwait(false).GetAsyncEnumerator();
            while (await generation.Watch(updates.MoveNextAsync()).ConfigureAwait(false))
            {
                TokenUpdate update = updates.Current;
                if (update.Token is not null)
                {
                    Interlocked.CompareExchange(ref _firstToken, clock.GetTimestamp(), 0);
                    metrics.Generated();
                    Interlocked.Increment(ref _generated);
                }

                generation.Add(update);
                yield return update;
            }
        }
        finally
        {
            caller.Tokens?.Owe(generation.Tokens);
        }
    }

    /// <summary>Vectors of inputs.</summary>
    public async Task<IReadOnlyList<float[]>> EmbedAsync(EmbeddingRequest request, CancellationToken cancellation)
    {
        using Activity? activity = metrics.Start(this, PromptTokens);
        try
        {
            return await model.Engine.EmbedAsync(request, cancellation).ConfigureAwait(false);
        }
        catch (Exception error)
        {
            GenerationSpan.Fail(activity, error);
            throw;
        }
    }
}

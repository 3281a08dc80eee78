using System.Diagnostics;
using System.Runtime.CompilerServices;
using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Server.Telemetry;

/// <summary>One generated sequence as a span of a trace, and its time per token.</summary>
internal sealed class GenerationSpan : IDisposable
{
    private readonly RequestScope _scope;
    private readonly ServerMetrics _metrics;
    private readonly Activity? _activity;
    private long _first;
    private long _last;
    private FinishReason? _finish;

    public GenerationSpan(RequestScope scope, ServerMetrics metrics, InferenceRequest request)
    {
        _scope = scope;
        _metrics = metrics;
        _activity = metrics.Start(scope, request.Prompt.Count);
        if (_activity is { IsAllDataRequested: true })
        {
            GenerationOptions options = request.Options;
            _activity.SetTag("gen_ai.request.max_tokens", options.MaxTokens).SetTag("gen_ai.request.temperature", options.Sampling.Temperature)
                .SetTag("gen_ai.request.top_p", options.Sampling.TopP).SetTag("gen_ai.request.top_k", options.Sampling.TopK > 0 ? options.Sampling.TopK : null)
                .SetTag("gen_ai.request.frequency_penalty", options.Sampling.FrequencyPenalty).SetTag("gen_ai.request.presence_penalty", options.Sampling.PresencePenalty)
                .SetTag("gen_ai.request.seed", options.Sampling.Seed);
        }
    }

    /// <summary>Tokens generated so far.</summary>
    public int Tokens { get; private set; }

    /// <summary>Marks the span when the awaited update fails.</summary>
    public async ValueTask<bool> Watch(ConfiguredValueTaskAwaitable<bool> update)
    {
        try
        {
            return await update;
        }
        catch (Exception error)
        {
            Fail(_activity, error);
            throw;
        }
    }

    public void Add(TokenUpdate update)
    {
        _finish = update.Finish ?? _finish;
        if (update.Token is not null)
        {
            Tokens++;
            _last = _scope.Clock.GetTimestamp();
            _first = _first == 0 ? _last : _first;
        }
    }

    public static void Fail(Activity? activity, Exception error) => activity?.SetTag("error.type", error.GetType().FullName).SetStatus(ActivityStatusCode.Error);

    public void Dispose()
    {
        if (_finish is { } finish)
        {
            _activity?.SetTag("gen_ai.response.finish_reasons", new[] { CompletionsEndpoint.ReasonOf(finish) });
            if (Tokens > 1)
            {
                _metrics.OutputTokens(_scope, _scope.Clock.GetElapsedTime(_first, _last) / (Tokens - 1));
            }
        }

        _activity?.SetTag("gen_ai.usage.output_tokens", Tokens);
        _activity?.Dispose();
    }
}

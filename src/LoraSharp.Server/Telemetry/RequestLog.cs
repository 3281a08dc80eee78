using Microsoft.Extensions.Logging;

namespace LoraSharp.Server.Telemetry;

/// <summary>What is logged: never a key, never a prompt or an answer.</summary>
internal static partial class RequestLog
{
    [LoggerMessage(1, LogLevel.Information, "{RequestId} {Method} {Route} {Status} key={Key} model={Model} prompt_tokens={PromptTokens} generated_tokens={GeneratedTokens} first_token_ms={FirstTokenMs:0.0} ms={Ms:0.0}")]
    public static partial void Finished(ILogger logger, string requestId, string method, string route, int status, string key, string model, int promptTokens, int generatedTokens, double firstTokenMs, double ms);

    [LoggerMessage(2, LogLevel.Error, "{Method} {Path} failed")]
    public static partial void Failed(ILogger logger, Exception error, string method, string path);

    [LoggerMessage(3, LogLevel.Information, "Adapter {Adapter}: {Change} by {Key}")]
    public static partial void AdapterChanged(ILogger logger, string adapter, string change, string key);

    [LoggerMessage(4, LogLevel.Warning, "Draining: new requests are refused, {UnderWay} under way")]
    public static partial void Draining(ILogger logger, int underWay);
}

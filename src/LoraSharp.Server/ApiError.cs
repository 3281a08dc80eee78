using System.Globalization;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary>A refusal in OpenAI's shape: <c>{"error": {"message", "type", "param", "code"}}</c>.</summary>
internal sealed class ApiError(int status, string message, string? parameter = null, string? code = null) : Exception(message)
{
    public int Status { get; } = status;

    public string? Parameter { get; } = parameter;

    public string? Code { get; } = code;

    /// <summary>When to try again; null where that would not help.</summary>
    public TimeSpan? RetryAfter { get; init; }

    /// <summary>A value of the request that is not what it should be.</summary>
    public static ApiError Invalid(string parameter, string message) => new(StatusCodes.Status400BadRequest, message, parameter, "invalid_value");

    /// <summary>A limit of the caller's key is reached.</summary>
    public static ApiError TooMany(string message, TimeSpan retryAfter) =>
        new(StatusCodes.Status429TooManyRequests, $"{message} Try again in {Seconds(retryAfter)} s.", null, "rate_limit_exceeded") { RetryAfter = retryAfter };

    /// <summary>The server takes nothing for now.</summary>
    public static ApiError Unavailable(string message, TimeSpan retryAfter) => new(StatusCodes.Status503ServiceUnavailable, message, null, "overloaded") { RetryAfter = retryAfter };

    /// <summary>The answer to an exception; null for one that is a fault of the server.</summary>
    public static ApiError? From(Exception error) => error switch
    {
        ApiError api => api,
        UnknownAdapterException => new ApiError(StatusCodes.Status404NotFound, error.Message, "model", "model_not_found"),
        EngineBusyException => Unavailable(error.Message, TimeSpan.FromSeconds(2)),
        EngineStoppedException => Unavailable(error.Message, TimeSpan.FromSeconds(5)),
        EngineFailureException => null,
        BadHttpRequestException bad => new ApiError(bad.StatusCode, bad.Message),
        LoraSharpException => new ApiError(StatusCodes.Status400BadRequest, error.Message),
        _ => null,
    };

    /// <summary>The answer where routing or the web server gave a bare status.</summary>
    public static ApiError FromStatus(HttpRequest request, int status) => new(status, status switch
    {
        StatusCodes.Status404NotFound => $"There is no route {request.Method} {Shorten(request.Path)}.{Hint(request.Path)}",
        StatusCodes.Status405MethodNotAllowed => $"{request.Method} is not a method of {Shorten(request.Path)}.",
        StatusCodes.Status413PayloadTooLarge => "The request's body is too large.",
        StatusCodes.Status415UnsupportedMediaType => "Expected Content-Type: application/json.",
        >= 500 => "The server failed.",
        _ => "The request was refused.",
    }, null, status switch { 404 => "unknown_url", 405 => "method_not_supported", 415 => "unsupported_media_type", _ => null });

    /// <summary>A text of the caller's that may be long, for a message.</summary>
    public static string Shorten(string? text) => text is { Length: > 100 } ? text[..100] + "…" : text ?? "";

    public JsonObject ToJson() => new()
    {
        ["error"] = new JsonObject
        {
            ["message"] = Message,
            ["type"] = Status switch { 401 => "authentication_error", 403 => "permission_error", 404 => "not_found_error", 429 => "rate_limit_error", >= 500 => "server_error", _ => "invalid_request_error" },
            ["param"] = Parameter,
            ["code"] = Code,
        },
    };

    public async Task WriteAsync(HttpContext context)
    {
        context.Response.StatusCode = Status;
        if (RetryAfter is { } wait)
        {
            context.Response.Headers.RetryAfter = Seconds(wait);
        }

        if (Status == StatusCodes.Status401Unauthorized)
        {
            context.Response.Headers.WWWAuthenticate = "Bearer";
        }

        await JsonBody.WriteAsync(context, ToJson()).ConfigureAwait(false);
    }

    // The usual slip of who sets a client's base address.
    private static string Hint(string? path) => path switch
    {
        "/chat/completions" or "/completions" or "/embeddings" or "/models" => $" It is /v1{path}: the client's base URL must end in /v1.",
        not null when path.StartsWith("/v1/v1/", StringComparison.Ordinal) => " The client adds /v1 itself: leave it out of its base URL.",
        _ => "",
    };

    private static string Seconds(TimeSpan time) => Math.Max(1, (long)Math.Ceiling(time.TotalSeconds)).ToString(CultureInfo.InvariantCulture);
}

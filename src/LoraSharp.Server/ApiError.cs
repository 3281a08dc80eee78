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

    /// <summary>A value of the request that is not what it should be.</summary>
    public static ApiError Invalid(string parameter, string message) => new(StatusCodes.Status400BadRequest, message, parameter, "invalid_value");

    /// <summary>The answer to an exception; null for one that is a fault of the server.</summary>
    public static ApiError? From(Exception error) => error switch
    {
        ApiError api => api,
        UnknownAdapterException => new ApiError(StatusCodes.Status404NotFound, error.Message, "model", "model_not_found"),
        EngineBusyException => new ApiError(StatusCodes.Status503ServiceUnavailable, error.Message, null, "overloaded"),
        BadHttpRequestException bad => new ApiError(bad.StatusCode, bad.Message),
        LoraSharpException => new ApiError(StatusCodes.Status400BadRequest, error.Message),
        _ => null,
    };

    public JsonObject ToJson() => new()
    {
        ["error"] = new JsonObject
        {
            ["message"] = Message,
            ["type"] = Status switch { 401 => "authentication_error", 404 => "not_found_error", >= 500 => "server_error", _ => "invalid_request_error" },
            ["param"] = Parameter,
            ["code"] = Code,
        },
    };

    public async Task WriteAsync(HttpContext context)
    {
        context.Response.StatusCode = Status;
        if (Status == StatusCodes.Status503ServiceUnavailable)
        {
            context.Response.Headers.RetryAfter = "1";
        }

        context.Response.ContentType = "application/json";
        await context.Response.WriteAsync(ToJson().ToJsonString(), context.RequestAborted).ConfigureAwait(false);
    }
}

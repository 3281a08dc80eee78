using LoraSharp.Server.Telemetry;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace LoraSharp.Server;

/// <summary><c>POST /v1/load_lora_adapter</c> and <c>/v1/unload_lora_adapter</c>, as vLLM has them.</summary>
internal sealed class AdaptersEndpoint(ServedModel model, ServerOptions options, ILogger logger)
{
    private const int LongestName = 200;

    public async Task LoadAsync(HttpContext context)
    {
        RequestBody body = await ReadAsync(context).ConfigureAwait(false);
        string name = NewName(body.Text("lora_name"), "lora_name");
        if (body.Has("load_inplace") && !body.Flag("load_inplace") && model.Engine.FindAdapter(name) is not null)
        {
            throw ApiError.Invalid("lora_name", $"The adapter '{name}' is loaded already. Give load_inplace: true to replace it.");
        }

        string path = AllowedPath(body.Text("lora_path"), "lora_path");
        AdapterInfo info = await model.Engine.LoadAsync(name, path).ConfigureAwait(false);
        RequestLog.AdapterChanged(logger, name, "loaded", RequestScope.Of(context).Caller.Key.Name);
        await context.Response.WriteAsync($"Success: LoRA adapter '{info.Name}' added successfully.", context.RequestAborted).ConfigureAwait(false);
    }

    public async Task UnloadAsync(HttpContext context)
    {
        RequestBody body = await ReadAsync(context).ConfigureAwait(false);
        string name = body.Text("lora_name") ?? throw ApiError.Invalid("lora_name", "lora_name is missing.");
        await model.Engine.UnloadAsync(name).ConfigureAwait(false);
        RequestLog.AdapterChanged(logger, name, "unloaded", RequestScope.Of(context).Caller.Key.Name);
        await context.Response.WriteAsync($"Success: LoRA adapter '{name}' removed successfully.", context.RequestAborted).ConfigureAwait(false);
    }

    /// <summary>A body of a request that changes adapters.</summary>
    public Task<RequestBody> ReadAsync(HttpContext context) =>
        options.AllowAdapterChanges ? RequestBody.ReadAsync(context) : throw new ApiError(StatusCodes.Status403Forbidden, "This server does not let adapters be changed over HTTP (--no-adapter-changes).", null, "adapter_changes_off");

    /// <summary>A name that an adapter may be given: it appears in lists, logs, metrics and URLs.</summary>
    public string NewName(string? name, string field)
    {
        bool fine = name is { Length: > 0 and <= LongestName } && char.IsAsciiLetterOrDigit(name[0])
            && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.' or '/' or ':' or '@') && !name.Split('/').Any(part => part is "" or "." or "..");
        return !fine ? throw ApiError.Invalid(field, $"{field}: '{ApiError.Shorten(name)}': expected 1 to {LongestName} letters, digits and - _ . / : @, with a letter or digit first and no empty or dotted part.")
            : name == options.ModelName ? throw ApiError.Invalid(field, $"{field}: '{name}' is the base model's name.")
            : name!;
    }

    /// <summary>A path that an adapter may be loaded from.</summary>
    public string AllowedPath(string? path, string field)
    {
        if (path is null or "" || path.Contains('\0'))
        {
            throw ApiError.Invalid(field, $"{field} is missing.");
        }

        if (options.AdapterFolders.Count == 0)
        {
            return path;
        }

        return FolderBounds.Find(options.AdapterFolders, path)
            ?? throw new ApiError(StatusCodes.Status403Forbidden, $"{field} is outside the folders that adapters may be loaded from, or leads through a link.", field, "path_not_allowed");
    }
}

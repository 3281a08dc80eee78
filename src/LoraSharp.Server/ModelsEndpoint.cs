using System.Text.Json.Nodes;
using LoraSharp.Serving;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server;

/// <summary><c>GET /v1/models</c>: the base and the adapters that the caller may use.</summary>
internal sealed class ModelsEndpoint(ServedModel model, ServerOptions options, ServerState state)
{
    public Task ListAsync(HttpContext context) => JsonBody.WriteAsync(context, new JsonObject { ["object"] = "list", ["data"] = new JsonArray([.. All(context).Select(m => (JsonNode)m)]) });

    public Task GetAsync(HttpContext context)
    {
        // Routing leaves %2F in a name as it is.
        string name = Uri.UnescapeDataString((string?)context.Request.RouteValues["name"] ?? "");
        return JsonBody.WriteAsync(context, All(context).FirstOrDefault(m => (string?)m["id"] == name) ?? throw RequestScope.Of(context).NotFound(name));
    }

    private IEnumerable<JsonObject> All(HttpContext context)
    {
        Access.Caller caller = RequestScope.Of(context).Caller;
        if (caller.Key.Base)
        {
            JsonObject one = Entry(options.ModelName);
            one["root"] = options.ModelName;
            one["parent"] = null;
            one["max_model_len"] = model.Engine.MaxLength;
            yield return one;
        }

        foreach (AdapterInfo adapter in model.Engine.Adapters.Where(a => caller.MaySee(a.Name)))
        {
            JsonObject one = Entry(adapter.Name);

            // Where it lies is the operator's affair, not a tenant's.
            one["root"] = caller.Key.IsAdmin ? adapter.Path : adapter.Name;
            one["parent"] = options.ModelName;
            one["max_model_len"] = model.Engine.MaxLength;
            one["rank"] = adapter.Rank > 0 ? adapter.Rank : null;
            one["loaded"] = adapter.IsLoaded;
            yield return one;
        }
    }

    private JsonObject Entry(string name) => new() { ["id"] = name, ["object"] = "model", ["created"] = state.Started.ToUnixTimeSeconds(), ["owned_by"] = "lorasharp" };
}

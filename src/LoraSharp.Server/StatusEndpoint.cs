using System.Diagnostics;
using System.Text.Json.Nodes;
using LoraSharp.Serving;

namespace LoraSharp.Server;

/// <summary><c>GET /status</c>: where the engine stands, as one small object; counts only, no adapter's name.</summary>
internal sealed class StatusEndpoint(ServedModel model, ServerOptions options)
{
    private readonly long _start = Stopwatch.GetTimestamp();

    public JsonObject Read()
    {
        EngineStatus engine = model.Engine.Status;
        AdapterUse adapters = engine.Adapters;
        return new JsonObject
        {
            ["model"] = options.ModelName,
            ["uptime"] = Stopwatch.GetElapsedTime(_start).TotalSeconds,
            ["chat"] = model.Tokenizer is not null && model.Template is not null,
            ["max_length"] = model.Engine.MaxLength,
            ["adapter_changes"] = options.AllowAdapterChanges,
            ["training"] = options.RunFolder is not null || model.Training?.Current is not null,
            ["running"] = engine.Running,
            ["waiting"] = engine.Waiting,
            ["kv_blocks"] = new JsonObject { ["total"] = engine.Blocks.Total, ["used"] = engine.Blocks.Used, ["cached"] = engine.Blocks.Cached, ["tokens"] = model.Engine.Limits.BlockSize },
            ["generated_tokens"] = engine.GeneratedTokens,
            ["prompt_tokens"] = engine.PromptTokens,
            ["shared_tokens"] = engine.SharedTokens,
            ["preemptions"] = engine.Preemptions,
            ["steps"] = engine.Steps,
            ["training_share"] = engine.TrainingShare,
            ["adapters"] = new JsonObject { ["device"] = adapters.OnDevice, ["host"] = adapters.OnHost, ["disk"] = adapters.OnDisk },
        };
    }
}

using LoraSharp.Adapters;

namespace LoraSharp.Server.Tests;

/// <summary>Adapters with random factors for a model of which the fixtures hold none.</summary>
internal static class RandomAdapter
{
    /// <summary>Writes a PEFT folder.</summary>
    public static string Write(string model, string folder, int rank, long seed)
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = model, Device = "cpu" });
        LoraAdapter adapter = loaded.Adapters.Create(new LoraOptions { Rank = rank, Alpha = rank, Init = "false" }, seed, "random");
        AdapterWriter.Write(adapter, folder, loaded.Adapters.Base);
        return folder;
    }
}

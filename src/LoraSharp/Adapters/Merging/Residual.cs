using static TorchSharp.torch;

namespace LoraSharp.Adapters.Merging;

/// <summary>Computes again what PiSSA or OLoRA took out of a base weight when the adapter was made.</summary>
internal static class Residual
{
    /// <summary>Gives the module its anchors.</summary>
    /// <param name="module">With A, B and scaling.</param>
    /// <param name="weight">The original W [f, k], float32.</param>
    /// <param name="init">PEFT's name of the initialisation.</param>
    public static void Anchor(AdapterModule module, Tensor weight, string init)
    {
        using var generator = new Generator(0, CPU);
        new FactorInitializer(generator, init).FromWeight(module, weight, module.Rank);
    }
}

using System.CommandLine;
using LoraSharp.Formats;

namespace LoraSharp.Cli.Commands;

/// <summary>
/// Options that several commands share: their names, defaults and help text are written once. Each command creates its
/// own, since an <see cref="Option"/> belongs to the command it is added to.
/// </summary>
internal static class CommonOptions
{
    /// <summary>--model.</summary>
    public static Option<string> Model() => new("--model") { Description = "Model: a Hugging Face folder, a .gguf file, or a hub name org/name[@revision] in the local cache.", Required = true, HelpName = "MODEL" };

    /// <summary>--adapter, repeatable, several values at once.</summary>
    public static Option<string[]> Adapters() => new("--adapter") { Description = "PEFT adapter folder, .gguf adapter or hub name; PATH=SCALE weights it. May be given several times.", AllowMultipleArgumentsPerToken = true, HelpName = "PATH[=SCALE]", DefaultValueFactory = _ => [] };

    /// <summary>--any-base.</summary>
    public static Option<bool> AnyBase() => new("--any-base") { Description = "Take an adapter that was made on another base with a warning instead of an error." };

    /// <summary>--probe.</summary>
    public static Option<bool> Probe() => new("--probe") { Description = "Compare logits with and without each adapter on a few tokens, and print the difference." };

    /// <summary>--strict.</summary>
    public static Option<bool> Strict() => new("--strict") { Description = "Treat warnings about an adapter as errors, among them that it changes no logit." };

    /// <summary>--dtype.</summary>
    public static Option<string> DType()
    {
        var option = new Option<string>("--dtype") { Description = "Compute type of the base model: float32 or bfloat16.", HelpName = "TYPE", DefaultValueFactory = _ => "float32" };
        option.AcceptOnlyFromAmong("float32", "bfloat16");
        return option;
    }

    /// <summary>--device.</summary>
    public static Option<string> Device() => new("--device") { Description = "cpu, cuda[:n] or auto (the first GPU there is).", HelpName = "DEVICE", DefaultValueFactory = _ => "auto" };

    /// <summary>--quantize.</summary>
    public static Option<string> Quantize()
    {
        var option = new Option<string>("--quantize") { Description = "Quantise the base while it loads: nf4, fp4, q8 (bytes, for faster decoding) or none, which leaves it as it is stored: a 4-bit checkpoint and a GGUF file stay in their bits.", HelpName = "TYPE", DefaultValueFactory = _ => "none" };
        option.AcceptOnlyFromAmong("nf4", "fp4", "q8", "none");
        return option;
    }

    /// <summary>--dtype of a command that computes only to compare; null leaves the choice to the comparison.</summary>
    public static Option<string?> ComparisonDType()
    {
        var option = new Option<string?>("--dtype") { Description = "Type in which logits are compared: float32 or bfloat16; default: float32 where memory allows.", HelpName = "TYPE" };
        option.AcceptOnlyFromAmong("float32", "bfloat16");
        return option;
    }

    /// <summary>--quantize of a command that writes the base dense.</summary>
    public static Option<string> RoundBase()
    {
        var option = new Option<string>("--quantize") { Description = "nf4 or fp4: round the base to 4 bits first, as QLoRA trained the adapter on it. The result is dense.", HelpName = "TYPE", DefaultValueFactory = _ => "none" };
        option.AcceptOnlyFromAmong("nf4", "fp4", "none");
        return option;
    }

    /// <summary>--double-quant, beside --quantize.</summary>
    public static Option<bool> DoubleQuant() => new("--double-quant") { Description = "With --quantize nf4 or fp4: quantise the scales too, 0.516 instead of 0.563 bytes a weight, as method: qlora trains by default." };

    /// <summary>--model-type.</summary>
    public static Option<string?> ModelType() => new("--model-type") { Description = "Treat the model as this family, whatever config.json calls it.", HelpName = "NAME" };

    /// <summary>--set, repeatable, several values at once.</summary>
    public static Option<string[]> Set() => new("--set") { Description = "One setting of the recipe; may be given several times, the last wins.", HelpName = "KEY=VALUE", DefaultValueFactory = _ => [], AllowMultipleArgumentsPerToken = true };

    /// <summary>The settings that --set was given. A value is taken as it stands, for a template may begin with a space; not so after <c>KEY = VALUE</c>.</summary>
    /// <exception cref="LoraSharpException">One has no equals sign.</exception>
    public static IEnumerable<KeyValuePair<string, string>> Settings(IEnumerable<string> set) => set.Select(text => text.IndexOf('=') is > 0 and int equals
        ? KeyValuePair.Create(text[..equals].Trim(), text[equals - 1] == ' ' ? text[(equals + 1)..].Trim() : text[(equals + 1)..])
        : throw new LoraSharpException($"--set '{text}': expected KEY=VALUE, e.g. --set training.epochs=1."));

    /// <summary>Finds the device before anything is written, where it is needed last, for a comparison.</summary>
    /// <exception cref="LoraSharpException">There is no such device.</exception>
    public static void RequireDevice(string device) => _ = EngineSetup.FindDevice(device);

    /// <summary>--json.</summary>
    public static Option<bool> Json() => new("--json") { Description = "Print one JSON object instead of text." };
}

using LoraSharp.Recipes;

namespace LoraSharp;

/// <summary>The command that asks a model as it was trained.</summary>
public static class TrainedModelUse
{
    /// <summary>The <c>lora generate</c> line for a finished run, with the base rounded as QLoRA saw it.</summary>
    /// <param name="recipe">What was trained.</param>
    /// <param name="model">Path or name of the base as it is found from where the line is typed.</param>
    /// <param name="chat">Whether the rows were conversations, so that the prompt belongs into the chat template.</param>
    public static string Command(Recipe recipe, string model, bool chat)
    {
        string trained = recipe.Method == "full" ? $"--model {recipe.Output}" : $"--model {model} --adapter {recipe.Output}{Rounding(recipe)}";
        return $"lora generate {trained}{(chat ? " --chat" : string.Empty)} --prompt \"...\"";
    }

    // Other block sizes are a matter of the recipe.
    private static string Rounding(Recipe recipe) => recipe.Method != "qlora" || recipe.Quantization.BlockSize != 64 || recipe.Quantization.SkipModules.Count > 0
        ? string.Empty
        : $" --quantize {recipe.Quantization.Type}{(recipe.Quantization.Double ? " --double-quant" : string.Empty)}";
}

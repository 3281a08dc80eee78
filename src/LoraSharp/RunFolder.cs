using LoraSharp.Formats;
using LoraSharp.Recipes;

namespace LoraSharp;

/// <summary>The folder of a run and the names in it.</summary>
internal sealed class RunFolder(string path)
{
    private const string RecipeName = "recipe.yaml";

    public string Path { get; } = System.IO.Path.GetFullPath(path);

    public string Metrics => System.IO.Path.Combine(Path, "metrics.jsonl");

    public string Plot => System.IO.Path.Combine(Path, "loss.png");

    public string Card => System.IO.Path.Combine(Path, "README.md");

    public string Checkpoints => System.IO.Path.Combine(Path, "checkpoints");

    public string TensorBoard => System.IO.Path.Combine(Path, "tensorboard");

    public string Reference => System.IO.Path.Combine(Path, "reference.bin");

    private string RecipePath => System.IO.Path.Combine(Path, RecipeName);

    private string CompleteMark => System.IO.Path.Combine(Path, ".complete");

    /// <summary>
    /// Makes the folder this run's: an empty or new one is taken, a run of the same recipe that was cut off is gone on
    /// with, anything else is an error unless the recipe says to overwrite.
    /// </summary>
    public void Claim(Recipe recipe)
    {
        bool used = Directory.Exists(Path) && Directory.EnumerateFileSystemEntries(Path).Any();
        bool ours = File.Exists(RecipePath);
        if (File.Exists(Path))
        {
            throw new LoraSharpException($"{Path}: is a file, expected a folder for the run. Choose another output.");
        }

        if (used && !recipe.Overwrite)
        {
            if (!ours)
            {
                throw new LoraSharpException($"{Path}: the output folder exists and holds other files. Choose another output, or set overwrite: true to write into it.");
            }

            if (File.Exists(CompleteMark))
            {
                throw new LoraSharpException($"{Path}: holds a finished run. Choose another output, or start over: --overwrite, or overwrite: true in the recipe.");
            }
        }

        Directory.CreateDirectory(Path);
        if (recipe.Overwrite)
        {
            File.Delete(CompleteMark);
            foreach (string old in ours ? new[] { Checkpoints, TensorBoard }.Where(Directory.Exists) : [])
            {
                Directory.Delete(old, recursive: true);
            }
        }

        // The old recipe stays until the trainer has compared it with the checkpoint's.
        if (!ours || recipe.Overwrite)
        {
            AtomicFile.WriteText(RecipePath, RecipeWriter.ToYaml(recipe));
        }
    }

    /// <summary>Marks the run as finished.</summary>
    public void Complete() => AtomicFile.WriteText(CompleteMark, "");
}

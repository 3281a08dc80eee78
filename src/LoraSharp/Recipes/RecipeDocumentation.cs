using System.ComponentModel;
using System.Reflection;
using System.Text;

namespace LoraSharp.Recipes;

/// <summary>The settings of a <see cref="Recipe"/> as documentation and as command-line flags.</summary>
public static class RecipeDocumentation
{
    /// <summary>Every setting: dotted key, description, default as YAML (empty when there is none).</summary>
    public static IEnumerable<(string Key, string Description, string Default)> Settings() => Settings(new Recipe(), "");

    /// <summary>The page <c>docs/recipe.md</c>.</summary>
    public static string ToMarkdown()
    {
        var text = new StringBuilder("# The recipe\n\nEvery setting of a fine-tune: a key of the YAML file given to `lora train`, and of `--set key=value`.\nThe resolved recipe, defaults filled in, is written to `recipe.yaml` in the run folder.\n\n| key | default | what it does |\n| --- | --- | --- |\n");
        foreach ((string key, string description, string value) in Settings())
        {
            text.Append($"| `{key}` | {(value.Length == 0 ? "" : $"`{value}`")} | {description.Replace("|", "\\|")} |\n");
        }

        return text.ToString();
    }

    private static IEnumerable<(string Key, string Description, string Default)> Settings(object section, string path)
    {
        foreach (PropertyInfo property in RecipeReader.Settings(section.GetType()))
        {
            object? value = property.GetValue(section);
            string key = path + RecipeReader.KeyOf(property);
            if (RecipeWriter.IsSection(value))
            {
                foreach ((string Key, string Description, string Default) inner in Settings(value!, key + "."))
                {
                    yield return inner;
                }
            }
            else
            {
                yield return (key, property.GetCustomAttribute<DescriptionAttribute>()?.Description ?? "", value is null or "" ? "" : RecipeWriter.Inline(value));
            }
        }
    }
}

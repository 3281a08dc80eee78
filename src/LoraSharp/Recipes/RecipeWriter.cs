using System.Collections;
using System.Globalization;
using System.Reflection;
using System.Text;

namespace LoraSharp.Recipes;

/// <summary>Writes a recipe with every default filled in, so that a run can be repeated from its folder.</summary>
public static class RecipeWriter
{
    /// <summary>The recipe as YAML.</summary>
    public static string ToYaml(Recipe recipe)
    {
        ArgumentNullException.ThrowIfNull(recipe);
        var text = new StringBuilder();
        Write(text, recipe, "");
        return text.ToString();
    }

    /// <summary>The settings that differ, as <c>key: a → b</c>.</summary>
    public static IReadOnlyList<string> Differences(Recipe a, Recipe b)
    {
        Dictionary<string, string> left = Flat(a);
        Dictionary<string, string> right = Flat(b);
        return [.. left.Where(p => right[p.Key] != p.Value).Select(p => $"{p.Key}: {p.Value} → {right[p.Key]}")];
    }

    /// <summary>Every setting as dotted key and YAML value.</summary>
    public static IReadOnlyDictionary<string, string> Settings(Recipe recipe) => Flat(recipe);

    private static Dictionary<string, string> Flat(Recipe recipe)
    {
        var all = new Dictionary<string, string>(StringComparer.Ordinal);
        void Add(object section, string path)
        {
            foreach (PropertyInfo property in RecipeReader.Settings(section.GetType()))
            {
                object? value = property.GetValue(section);
                if (IsSection(value))
                {
                    Add(value!, path + RecipeReader.KeyOf(property) + ".");
                }
                else
                {
                    all[path + RecipeReader.KeyOf(property)] = Inline(value);
                }
            }
        }

        Add(recipe, "");
        return all;
    }

    private static void Write(StringBuilder text, object section, string indent)
    {
        foreach (PropertyInfo property in RecipeReader.Settings(section.GetType()))
        {
            object? value = property.GetValue(section);
            if (IsSection(value))
            {
                text.Append(indent).Append(RecipeReader.KeyOf(property)).Append(":\n");
                Write(text, value!, indent + "  ");
            }
            else if (value is not null)
            {
                text.Append(indent).Append(RecipeReader.KeyOf(property)).Append(": ").Append(Inline(value)).Append('\n');
            }
        }
    }

    internal static bool IsSection(object? value) => value is AdapterRecipe or DataRecipe or TrainingRecipe or PreferenceRecipe or GrpoRecipe or ReportRecipe or QuantizationRecipe or SweepRecipe;

    internal static string Inline(object? value) => value switch
    {
        null => "null",
        bool flag => flag ? "true" : "false",
        string text => Quoted(text),
        NameSet set => set.Single is { } single ? Quoted(single) : Inline(set.Names),
        DataSourceRecipe { Weight: 1, Format: null, Columns: null, MaxSamples: 0 } source => Quoted(source.Path),
        DataSourceRecipe source => "{ " + string.Join(", ", RecipeReader.Settings(typeof(DataSourceRecipe)).Where(p => p.GetValue(source) is not null).Select(p => $"{RecipeReader.KeyOf(p)}: {Inline(p.GetValue(source))}")) + " }",
        IDictionary map => "{ " + string.Join(", ", map.Keys.Cast<object>().Select(k => $"{Inline(k)}: {Inline(map[k])}")) + " }",
        IEnumerable list => "[" + string.Join(", ", list.Cast<object>().Select(Inline)) + "]",
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        _ => value.ToString()!,
    };

    private static string Quoted(string text) => "\"" + text.Replace("\\", "\\\\").Replace("\"", "\\\"").Replace("\n", "\\n").Replace("\t", "\\t").Replace("\r", "\\r") + "\"";
}

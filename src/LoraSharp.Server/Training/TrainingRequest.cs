using System.Globalization;
using System.Text.Json;
using LoraSharp.Formats;
using LoraSharp.Recipes;

namespace LoraSharp.Server.Training;

/// <summary>
/// A recipe that came over HTTP, made safe: it reads and writes below one folder only, trains on the served base, and all its
/// faults are told at once.
/// </summary>
/// <param name="Recipe">With absolute paths.</param>
/// <param name="Name">The adapter's name.</param>
/// <param name="Share">Share of the time while requests run.</param>
internal sealed record TrainingRequest(Recipe Recipe, string Name, double Share)
{
    private const double UsualShare = 0.5;

    /// <summary>Reads <c>{"recipe", "name", "share"}</c>.</summary>
    /// <param name="body">The request's.</param>
    /// <param name="folder">Below which data is read and runs are written.</param>
    /// <param name="model">Where the served base lies.</param>
    /// <param name="served">What requests call the served base; a recipe may do so too.</param>
    /// <exception cref="ApiError">400 with every fault.</exception>
    public static TrainingRequest Read(RequestBody body, string folder, string model, string served)
    {
        string name = body.Text("name") ?? throw ApiError.Invalid("name", "name is missing: what requests will call the adapter, and the run's folder.");
        double share = body.Number("share", 0, 1) ?? UsualShare;
        List<string> faults = [];
        if (share == 0)
        {
            faults.Add("share: expected above 0, at most 1, found 0");
        }

        if (!name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.'))
        {
            faults.Add($"name: '{ApiError.Shorten(name)}': expected letters, digits and - _ . alone, since a folder is called so");
        }

        Recipe? recipe = Parse(body, name, model, faults);
        if (recipe is not null)
        {
            recipe = Confine(recipe.Model == served ? recipe with { Model = model } : recipe, folder, name, faults);
        }

        return faults.Count == 0 ? new TrainingRequest(recipe!, name, share)
            : throw new ApiError(400, faults.Count == 1 ? faults[0] : $"{faults.Count} faults:\n  {string.Join("\n  ", faults)}", "recipe", "invalid_recipe");
    }

    private static Recipe? Parse(RequestBody body, string name, string model, List<string> faults)
    {
        JsonElement given = body.Value("recipe") ?? throw ApiError.Invalid("recipe", "recipe is missing: an object with the recipe's keys, or its YAML as text.");
        if (given.ValueKind is not (JsonValueKind.Object or JsonValueKind.String))
        {
            throw RequestBody.Wrong("recipe", "an object with the recipe's keys, or its YAML as text", given);
        }

        // Where it is written is not the sender's to choose; the model is the one there is, unless another is named.
        List<KeyValuePair<string, string>> settings = [new("output", name)];
        bool isObject = given.ValueKind == JsonValueKind.Object;
        if (isObject && !given.TryGetProperty("model", out _))
        {
            settings.Add(new("model", model));
        }

        try
        {
            // JSON is YAML.
            return RecipeReader.Parse(isObject ? given.GetRawText() : given.GetString()!, "recipe", settings);
        }
        catch (LoraSharpException error)
        {
            faults.Add(error.Message);
            return null;
        }
    }

    private static Recipe Confine(Recipe recipe, string folder, string name, List<string> faults)
    {
        if (recipe.Method == "full")
        {
            faults.Add("method: full changes the base itself, which others use; expected lora or qlora");
        }

        if (recipe.Data.Train.Count == 0)
        {
            faults.Add("data.train is missing: a file or folder below the server's training folder, or a list of them");
        }

        bool isShare = double.TryParse(recipe.Data.Validation, NumberStyles.Float, CultureInfo.InvariantCulture, out _);
        return recipe with
        {
            Output = Below("name", name, mustExist: false),
            Data = recipe.Data with
            {
                Train = [.. recipe.Data.Train.Select(s => s with { Path = Below("data.train", s.Path) })],
                Validation = isShare ? recipe.Data.Validation : Below("data.validation", recipe.Data.Validation),
            },
            Adapter = recipe.Adapter.InitFrom is { } from ? recipe.Adapter with { InitFrom = Below("adapter.init_from", from) } : recipe.Adapter,
        };

        string Below(string key, string path, bool mustExist = true)
        {
            if (FolderBounds.Find([folder], path) is not { } full)
            {
                faults.Add($"{key}: '{ApiError.Shorten(path)}' is outside the server's training folder, or leads through a link");
                return path;
            }

            if (mustExist && !File.Exists(full) && !Directory.Exists(full))
            {
                faults.Add($"{key}: there is no '{ApiError.Shorten(path)}' in the server's training folder");
            }

            return full;
        }
    }
}

using System.Collections;
using System.ComponentModel;
using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Reflection;
using System.Text.Json;
using LoraSharp.Formats;
using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace LoraSharp.Recipes;

/// <summary>
/// Reads a recipe: YAML text, then settings given one by one, which win. Every fault is listed at once with its
/// line; an unknown key is answered with the nearest known one.
/// </summary>
public sealed class RecipeReader
{
    private readonly List<string> _faults = [];
    private readonly string _source;

    private RecipeReader(string source) => _source = source;

    /// <summary>Reads a recipe file.</summary>
    /// <param name="path">The YAML file; null when every setting comes from <paramref name="settings"/>.</param>
    /// <param name="settings">Pairs of a dotted key (<c>training.epochs</c>) and a YAML value, applied in order.</param>
    /// <exception cref="LoraSharpException">The file is missing or not YAML, or one or more settings are wrong.</exception>
    public static Recipe Read(string? path, IEnumerable<KeyValuePair<string, string>>? settings = null)
    {
        if (path is not null && !File.Exists(path))
        {
            throw new MalformedFileException(path, "there is no such file. Expected a recipe in YAML.");
        }

        return Parse(path is null ? "" : File.ReadAllText(path), path ?? "the command line", settings);
    }

    /// <summary>Reads a recipe from text.</summary>
    public static Recipe Parse(string yaml, string source, IEnumerable<KeyValuePair<string, string>>? settings = null)
    {
        var reader = new RecipeReader(source);
        YamlMappingNode root = reader.ParseYaml(yaml);
        foreach ((string key, string value) in settings ?? [])
        {
            reader.Set(root, key, value);
        }

        var recipe = (Recipe)reader.Bind(typeof(Recipe), root, "");
        if (reader._faults.Count > 0)
        {
            throw new MalformedFileException(source, reader._faults.Count == 1
                ? reader._faults[0]
                : $"{reader._faults.Count} faults:\n  " + string.Join("\n  ", reader._faults));
        }

        return recipe;
    }

    /// <summary>A property's key in the file.</summary>
    public static string KeyOf(PropertyInfo property)
    {
        ArgumentNullException.ThrowIfNull(property);
        return JsonNamingPolicy.SnakeCaseLower.ConvertName(property.Name);
    }

    internal static IEnumerable<PropertyInfo> Settings(Type section) =>
        section.GetProperties(BindingFlags.Public | BindingFlags.Instance).Where(p => p.CanWrite);

    private YamlMappingNode ParseYaml(string yaml)
    {
        var stream = new YamlStream();
        try
        {
            stream.Load(new StringReader(yaml));
        }
        catch (YamlException error)
        {
            throw new MalformedFileException(_source, $"line {error.Start.Line}, column {error.Start.Column}: not valid YAML ({error.Message}).", error);
        }

        if (stream.Documents.Count == 0)
        {
            return [];
        }

        return stream.Documents[0].RootNode as YamlMappingNode
            ?? throw new MalformedFileException(_source, "expected a mapping with keys such as model, adapter, data.");
    }

    private void Set(YamlMappingNode root, string key, string value)
    {
        string[] path = key.Split('.');
        YamlMappingNode node = root;
        foreach (string part in path[..^1])
        {
            if (node.Children.TryGetValue(new YamlScalarNode(part), out YamlNode? child) && child is YamlMappingNode mapping)
            {
                node = mapping;
            }
            else
            {
                var created = new YamlMappingNode();
                node.Children[new YamlScalarNode(part)] = created;
                node = created;
            }
        }

        YamlNode parsed = new YamlScalarNode(value) { Style = ScalarStyle.DoubleQuoted };
        if (value.TrimStart() is ['[' or '{', ..])
        {
            var stream = new YamlStream();
            try
            {
                stream.Load(new StringReader(value));
                parsed = stream.Documents[0].RootNode;
            }
            catch (YamlException error)
            {
                _faults.Add($"{key}: the value {value} is not valid YAML ({error.Message})");
            }
        }

        node.Children[new YamlScalarNode(path[^1])] = parsed;
    }

    private object Bind(Type type, YamlMappingNode node, string path)
    {
        object section = Activator.CreateInstance(type)!;
        Dictionary<string, PropertyInfo> known = Settings(type).ToDictionary(KeyOf);
        foreach ((YamlNode keyNode, YamlNode value) in node.Children)
        {
            string key = (keyNode as YamlScalarNode)?.Value ?? "";
            if (known.TryGetValue(key, out PropertyInfo? property))
            {
                if (Convert(property.PropertyType, value, path + key) is { } converted)
                {
                    property.SetValue(section, Switch(property, converted));
                }
            }
            else
            {
                string hint = NearestWord.Find(key, known.Keys) is { } nearest ? $" Did you mean {path}{nearest}?" : $" Known here: {string.Join(", ", known.Keys)}.";
                _faults.Add($"{Place(keyNode)}unknown key {path}{key}.{hint}");
            }
        }

        foreach (PropertyInfo property in known.Values)
        {
            Check(property, property.GetValue(section), path + KeyOf(property), node);
        }

        return section;
    }

    // YAML 1.1 has on, yes and true for the same thing, so whoever writes JSON or a bare `true` for an on/off/auto setting means on.
    private static object Switch(PropertyInfo property, object value) =>
        value is string text && ParseBool(text) is bool flag && (flag ? "on" : "off") is var word && property.GetCustomAttribute<AllowedValuesAttribute>()?.Values.Contains(word) == true
            ? word
            : value;

    private void Check(PropertyInfo property, object? value, string key, YamlMappingNode node)
    {
        YamlNode? at = node.Children.FirstOrDefault(c => (c.Key as YamlScalarNode)?.Value == KeyOf(property)).Value;
        foreach (ValidationAttribute rule in property.GetCustomAttributes<ValidationAttribute>())
        {
            if (rule is RequiredAttribute ? value is null or "" : value is not null && !rule.IsValid(value))
            {
                string expected = rule switch
                {
                    RequiredAttribute => $"is missing, expected {Expected(property)}",
                    AllowedValuesAttribute allowed => $"is '{Text(value)}', expected one of {string.Join(", ", allowed.Values)}",
                    RangeAttribute range => $"is {Text(value)}, expected {Text(range.Minimum)} to {Text(range.Maximum)}",
                    _ => $"is {Text(value)}: {rule.FormatErrorMessage(key)}",
                };
                _faults.Add($"{(at is null ? "" : Place(at))}{key} {expected}.");
            }
        }
    }

    // The setting's description as the end of a sentence.
    private static string Expected(PropertyInfo property) =>
        property.GetCustomAttribute<DescriptionAttribute>()?.Description is { Length: > 0 } text ? char.ToLowerInvariant(text[0]) + text[1..].TrimEnd('.') : "a value";

    private object? Convert(Type type, YamlNode node, string key)
    {
        Type target = Nullable.GetUnderlyingType(type) ?? type;
        if (node is YamlScalarNode { Style: ScalarStyle.Plain, Value: "" or "~" or "null" })
        {
            return null;
        }

        if (target == typeof(NameSet))
        {
            return node is YamlSequenceNode names ? new NameSet((string?)null) { Names = List(names, key, typeof(string)).Cast<string>().ToArray() } : Scalar(typeof(string), node, key) is string single ? new NameSet(single) : null;
        }

        if (target == typeof(IReadOnlyList<DataSourceRecipe>))
        {
            IEnumerable<YamlNode> items = node is YamlSequenceNode sequence ? sequence.Children : [node];
            return items.Select((item, i) => Source(item, $"{key}[{i}]")).OfType<DataSourceRecipe>().ToArray();
        }

        if (target.IsGenericType && target.GetGenericTypeDefinition() == typeof(IReadOnlyList<>))
        {
            Type element = target.GetGenericArguments()[0];
            IList items = node is YamlSequenceNode sequence ? List(sequence, key, element) : Convert(element, node, key) is { } one ? new[] { one } : [];
            var array = Array.CreateInstance(element, items.Count);
            for (int i = 0; i < items.Count; i++)
            {
                array.SetValue(items[i], i);
            }

            return array;
        }

        if (target.IsGenericType && target.GetGenericTypeDefinition() == typeof(IReadOnlyDictionary<,>))
        {
            return Dictionary(node, key, target.GetGenericArguments()[1]);
        }

        if (target.Namespace == typeof(Recipe).Namespace)
        {
            if (node is YamlMappingNode mapping)
            {
                return Bind(target, mapping, key + ".");
            }

            _faults.Add($"{Place(node)}{key} must be a mapping, found {Shown(node)}.");
            return null;
        }

        return Scalar(target, node, key);
    }

    private DataSourceRecipe? Source(YamlNode node, string key) => node is YamlMappingNode mapping
        ? (DataSourceRecipe)Bind(typeof(DataSourceRecipe), mapping, key + ".")
        : Scalar(typeof(string), node, key) is string path ? new DataSourceRecipe { Path = path } : null;

    private List<object> List(YamlSequenceNode node, string key, Type element) =>
        [.. node.Children.Select((item, i) => Convert(element, item, $"{key}[{i}]")).OfType<object>()];

    private object? Dictionary(YamlNode node, string key, Type element)
    {
        if (node is not YamlMappingNode mapping)
        {
            _faults.Add($"{Place(node)}{key} must be a mapping, found {Shown(node)}.");
            return null;
        }

        var result = (IDictionary)Activator.CreateInstance(typeof(Dictionary<,>).MakeGenericType(typeof(string), element))!;
        foreach ((YamlNode name, YamlNode value) in mapping.Children)
        {
            string text = (name as YamlScalarNode)?.Value ?? "";
            if (Scalar(element, value, $"{key}.{text}") is { } converted)
            {
                result[text] = converted;
            }
        }

        return result;
    }

    private object? Scalar(Type type, YamlNode node, string key)
    {
        if (node is not YamlScalarNode { Value: { } text })
        {
            _faults.Add($"{Place(node)}{key} must be {NameOf(type)}, found {Shown(node)}.");
            return null;
        }

        object? value = type == typeof(string) ? text
            : type == typeof(bool) ? ParseBool(text)
            : type == typeof(int) ? int.TryParse(text.Replace("_", ""), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int whole) ? whole : null
            : type == typeof(double) ? double.TryParse(text.Replace("_", ""), NumberStyles.Float, CultureInfo.InvariantCulture, out double number) && double.IsFinite(number) ? number : null
            : throw new InvalidOperationException($"Recipe settings of type {type} are not supported.");
        if (value is null)
        {
            _faults.Add($"{Place(node)}{key} must be {NameOf(type)}, found '{text}'.");
        }

        return value;
    }

    private static bool? ParseBool(string text) => text.ToLowerInvariant() switch
    {
        "true" or "yes" or "on" => true,
        "false" or "no" or "off" => false,
        _ => null,
    };

    private static string NameOf(Type type) => type == typeof(int) ? "a whole number" : type == typeof(double) ? "a number" : type == typeof(bool) ? "true or false" : "text";

    private static string Shown(YamlNode node) => node switch
    {
        YamlScalarNode scalar => $"'{scalar.Value}'",
        YamlSequenceNode => "a list",
        _ => "a mapping",
    };

    private static string Place(YamlNode node) => node.Start.Line > 0 && node.Start.Index > 0 ? $"line {node.Start.Line}: " : "";

    private static string Text(object? value) => System.Convert.ToString(value, CultureInfo.InvariantCulture) ?? "null";
}

using System.Globalization;
using LoraSharp.Formats;
using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace LoraSharp.Server.Access;

/// <summary>
/// Keys in a file, YAML or JSON:
/// <code>
/// keys:
///   - name: team-a
///     sha256: 0f4f...            # or key: TEXT, or key_env: VARIABLE
///     adapters: [support, "team-a-*"]
///     base: false
///     requests_per_minute: 60
///     tokens_per_minute: 20000
///     max_concurrent: 4
///   - { name: ops, key_env: LORA_OPS_KEY, admin: true }
/// </code>
/// </summary>
public static class KeysFile
{
    private const int ShortestKey = 8;
    private const string Known = "name, key, key_env, sha256, adapters, base, admin, requests_per_minute, tokens_per_minute, max_concurrent";

    /// <summary>Reads the file.</summary>
    /// <exception cref="MalformedFileException">It is missing, no YAML, or one or more entries are wrong; all faults are listed with their lines.</exception>
    public static IReadOnlyList<ApiKey> Read(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return File.Exists(path) ? Parse(File.ReadAllText(path), path) : throw new MalformedFileException(path, "there is no such file. Expected API keys in YAML or JSON.");
    }

    /// <summary>Reads keys from text.</summary>
    /// <param name="text">YAML or JSON.</param>
    /// <param name="source">What errors call the text.</param>
    public static IReadOnlyList<ApiKey> Parse(string text, string source)
    {
        var faults = new List<string>();
        List<ApiKey> keys = [.. Entries(text, source).Select(entry => Read(entry, faults)).OfType<ApiKey>()];
        foreach (IGrouping<string, ApiKey> same in keys.GroupBy(k => k.Name, StringComparer.Ordinal).Where(g => g.Count() > 1))
        {
            faults.Add($"the name '{same.Key}' is given {same.Count()} times");
        }

        foreach (IGrouping<string, ApiKey> same in keys.GroupBy(k => k.Sha256).Where(g => g.Count() > 1))
        {
            faults.Add($"{string.Join(" and ", same.Select(k => $"'{k.Name}'"))} have the same key");
        }

        return faults.Count == 0 ? keys : throw new MalformedFileException(source, $"{faults.Count} fault{(faults.Count == 1 ? "" : "s")}:\n  {string.Join("\n  ", faults)}");
    }

    private static IEnumerable<YamlMappingNode> Entries(string text, string source)
    {
        var stream = new YamlStream();
        try
        {
            stream.Load(new StringReader(text));
        }
        catch (YamlException error)
        {
            throw new MalformedFileException(source, $"line {error.Start.Line}, column {error.Start.Column}: neither YAML nor JSON ({error.Message}).", error);
        }

        YamlNode? list = stream.Documents.Count == 0 ? null
            : stream.Documents[0].RootNode is YamlMappingNode { Children.Count: 1 } root && root.Children.TryGetValue(new YamlScalarNode("keys"), out YamlNode? keys) ? keys : stream.Documents[0].RootNode;
        return list is YamlSequenceNode { Children.Count: > 0 } sequence && sequence.Children.All(c => c is YamlMappingNode)
            ? sequence.Children.Cast<YamlMappingNode>()
            : throw new MalformedFileException(source, "expected one entry 'keys' with a list of at least one key, each with a name and one of key, key_env, sha256.");
    }

    private static ApiKey? Read(YamlMappingNode entry, List<string> faults)
    {
        int before = faults.Count;
        var values = new Dictionary<string, YamlNode>(StringComparer.Ordinal);
        foreach ((YamlNode key, YamlNode value) in entry.Children)
        {
            values[(key as YamlScalarNode)?.Value ?? ""] = value;
        }

        foreach (string unknown in values.Keys.Except(Known.Split(", ")))
        {
            Fault($"unknown key '{unknown}'. Known: {Known}");
        }

        var made = new ApiKey
        {
            Name = Text("name") ?? "",
            Sha256 = Secret(),
            Adapters = Texts("adapters"),
            Base = Flag("base", true),
            IsAdmin = Flag("admin", false),
            RequestsPerMinute = Whole("requests_per_minute"),
            TokensPerMinute = Whole("tokens_per_minute"),
            MaxConcurrent = Whole("max_concurrent"),
        };
        if (faults.Count == before)
        {
            foreach (string fault in made.Faults())
            {
                Fault(fault);
            }
        }

        return faults.Count == before ? made : null;

        void Fault(string message) => faults.Add($"line {entry.Start.Line}: {message}");

        string? Text(string name)
        {
            if (!values.TryGetValue(name, out YamlNode? node))
            {
                return null;
            }

            if (node is YamlScalarNode { Value: { } text })
            {
                return text;
            }

            Fault($"{name}: expected a text");
            return null;
        }

        string Secret()
        {
            string[] given = [.. new[] { "key", "key_env", "sha256" }.Where(values.ContainsKey)];
            if (given.Length != 1)
            {
                Fault($"expected exactly one of key, key_env and sha256, found {(given.Length == 0 ? "none" : string.Join(" and ", given))}");
                return "";
            }

            string text = Text(given[0]) ?? "";
            if (given[0] == "sha256")
            {
                return text;
            }

            string? key = given[0] == "key" ? text : Environment.GetEnvironmentVariable(text);
            if (key is null || key.Length < ShortestKey || key.Any(c => c is <= ' ' or > '~'))
            {
                // The key itself is never shown.
                Fault(key is null ? $"key_env: the environment variable {text} is not set" : $"{given[0]}: expected at least {ShortestKey} visible ASCII characters");
                return "";
            }

            return ApiKey.Hash(key);
        }

        IReadOnlyList<string> Texts(string name)
        {
            if (!values.TryGetValue(name, out YamlNode? node))
            {
                return ["*"];
            }

            if (node is YamlSequenceNode list && list.Children.All(c => c is YamlScalarNode { Value: not null }))
            {
                return [.. list.Children.Select(c => ((YamlScalarNode)c).Value!)];
            }

            Fault($"{name}: expected a list of names");
            return [];
        }

        bool Flag(string name, bool fallback)
        {
            string? text = Text(name);
            if (text is not (null or "true" or "false"))
            {
                Fault($"{name}: expected true or false, found '{text}'");
            }

            return text is null ? fallback : text == "true";
        }

        int Whole(string name)
        {
            int value = 0;
            if (Text(name) is { } text && !int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out value))
            {
                Fault($"{name}: expected a whole number, found '{text}'");
            }

            return value;
        }
    }
}

using System.Text.Json.Nodes;

namespace LoraSharp.Testing;

/// <summary>Changes to a JSON document such as a slip, another version or malice would make: it stays JSON, its meaning goes.</summary>
internal static class JsonMutations
{
    private static readonly string[] Values =
    [
        "null", "true", "false", "0", "-1", "1", "0.5", "-0.0", "1e400", "-1e400", "1e308", "2147483648", "9223372036854775808", "-9223372036854775809", "4294967295", "\"\"", "\"x\"", "\"\\u0000\"",
        "\"\\ud800\"", "[]", "{}", "[[]]", "[null]", "{\"a\":1}", "[1,\"a\",null]", "\"../../etc/passwd\"", "\"(\"", "\"[\"", "\"9999999999\"", "1e-400", "\"NaN\"", "\"(a+)+$\"",
    ];

    /// <summary>The text with one to three changes: a value replaced, a member removed, repeated or renamed, lists cut or doubled.</summary>
    public static string Mutate(string json, Random random)
    {
        for (int change = random.Next(1, 4); change > 0; change--)
        {
            try
            {
                json = Change(json, random);
            }
            catch (Exception error) when (error is System.Text.Json.JsonException or ArgumentException or InvalidOperationException)
            {
                // A change before made text of it that cannot be walked any more: far enough.
                return json;
            }
        }

        return json;
    }

    private static string Change(string json, Random random)
    {
        JsonNode? root = JsonNode.Parse(json);
        var places = new List<(JsonNode Parent, string? Name, int Index)>();
        Collect(root, places);
        if (places.Count == 0)
        {
            return json;
        }

        (JsonNode parent, string? name, int index) = places[random.Next(places.Count)];
        string value = Values[random.Next(Values.Length)];
        const string Marker = "\u0001marker\u0001";
        if (parent is JsonObject members)
        {
            JsonNode? old = members[name!]?.DeepClone();
            switch (random.Next(6))
            {
                case 0:
                    members.Remove(name!);
                    return members.Root.ToJsonString();
                case 1:
                    // A name given twice.
                    members[Marker] = old;
                    return members.Root.ToJsonString().Replace(JsonValue.Create(Marker).ToJsonString(), JsonValue.Create(name!).ToJsonString(), StringComparison.Ordinal);
                case 2:
                    members.Remove(name!);
                    members[name! + "x"] = old;
                    return members.Root.ToJsonString();
                default:
                    members[name!] = Marker;
                    break;
            }
        }
        else
        {
            var list = (JsonArray)parent;
            switch (random.Next(5))
            {
                case 0:
                    list.RemoveAt(index);
                    return list.Root.ToJsonString();
                case 1:
                    list.Insert(index, list[index]?.DeepClone());
                    return list.Root.ToJsonString();
                default:
                    list[index] = Marker;
                    break;
            }
        }

        return parent.Root.ToJsonString().Replace(JsonValue.Create(Marker).ToJsonString(), value, StringComparison.Ordinal);
    }

    private static void Collect(JsonNode? node, List<(JsonNode, string?, int)> places)
    {
        if (node is JsonObject members)
        {
            foreach ((string name, JsonNode? child) in members)
            {
                places.Add((members, name, -1));
                Collect(child, places);
            }
        }
        else if (node is JsonArray list)
        {
            // Of long lists (vocabularies, merges) some entries are as good as all.
            for (int i = 0; i < list.Count; i += 1 + list.Count / 50)
            {
                places.Add((list, null, i));
                Collect(list[i], places);
            }
        }
    }
}

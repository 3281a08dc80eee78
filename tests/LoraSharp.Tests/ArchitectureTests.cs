using System.Reflection;
using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace LoraSharp.Tests;

/// <summary>The direction of dependencies (docs/architecture.md): assemblies by their references, rooms by their usings.</summary>
public sealed partial class ArchitectureTests
{
    // What a room (a folder of src/LoraSharp) may use besides itself. The front hall (files at the root) may use all.
    private static readonly Dictionary<string, string[]> Rooms = new()
    {
        ["Tensors"] = [],
        ["Kernels"] = ["Tensors"],
        ["Layers"] = ["Tensors", "Kernels"],
        ["Quantization"] = ["Layers", "Tensors", "Kernels"],
        ["Models"] = ["Layers", "Tensors", "Kernels"],
        ["Adapters"] = ["Layers", "Tensors", "Kernels"],
        ["Evaluation"] = [],
        ["Recipes"] = [],
        ["Training"] = ["Models", "Adapters", "Quantization", "Layers", "Tensors", "Kernels", "Evaluation"],
        ["Inference"] = ["Models", "Layers", "Tensors", "Kernels"],
        ["Serving"] = ["Inference", "Models", "Adapters", "Quantization", "Layers", "Tensors", "Kernels"],
    };

    [Fact]
    public void Formats_never_sees_tensors_or_the_web()
    {
        XDocument project = XDocument.Load(Path.Combine(Fixtures.Root(), "src", "LoraSharp.Formats", "LoraSharp.Formats.csproj"));
        Assert.Empty(project.Descendants("ProjectReference"));
        Assert.DoesNotContain(project.Descendants("PackageReference"), p => p.Attribute("Include")!.Value.Contains("Torch", StringComparison.OrdinalIgnoreCase));
        Assert.DoesNotContain(project.Descendants("FrameworkReference"), p => p.Attribute("Include")!.Value.Contains("AspNetCore", StringComparison.Ordinal));
        Assembly formats = typeof(Formats.ITensorSource).Assembly;
        Assert.DoesNotContain(formats.GetReferencedAssemblies(), a => a.Name is "TorchSharp" or "LoraSharp" || a.Name!.StartsWith("Microsoft.AspNetCore", StringComparison.Ordinal));
    }

    [Fact]
    public void The_engine_never_sees_the_web_or_the_command_line()
    {
        Assembly engine = typeof(LoraSharp.Layers.LinearLayer).Assembly;
        Assert.DoesNotContain(engine.GetReferencedAssemblies(), a => a.Name is "lora" or "LoraSharp.Server" or "System.CommandLine" or "Spectre.Console" || a.Name!.StartsWith("Microsoft.AspNetCore", StringComparison.Ordinal));
    }

    [Fact]
    public void The_server_shows_no_tensors_in_its_signatures()
    {
        string folder = Path.Combine(Fixtures.Root(), "src", "LoraSharp.Server");
        foreach (string file in Sources(folder))
        {
            Assert.DoesNotContain("TorchSharp", File.ReadAllText(file));
        }
    }

    [Fact]
    public void The_clients_in_process_show_no_tensors_and_see_no_web()
    {
        string folder = Path.Combine(Fixtures.Root(), "src", "LoraSharp.Extensions.AI");
        Assert.All(Sources(folder), file => Assert.DoesNotContain("TorchSharp", File.ReadAllText(file)));
        XDocument project = XDocument.Load(Path.Combine(folder, "LoraSharp.Extensions.AI.csproj"));
        Assert.Empty(project.Descendants("FrameworkReference"));
        Assert.DoesNotContain(project.Descendants("ProjectReference"), p => p.Attribute("Include")!.Value.Contains("Server", StringComparison.Ordinal));
    }

    [Fact]
    public void Constraints_have_no_tensors()
    {
        string folder = Path.Combine(Fixtures.Root(), "src", "LoraSharp", "Inference", "Constraints");
        Assert.All(Sources(folder), file => Assert.DoesNotContain("TorchSharp", File.ReadAllText(file)));
    }

    [Fact]
    public void A_room_uses_only_the_rooms_below_it()
    {
        string root = Path.Combine(Fixtures.Root(), "src", "LoraSharp");
        List<string> faults = [];
        foreach (string file in Sources(root))
        {
            string relative = Path.GetRelativePath(root, file);
            string[] parts = relative.Split(Path.DirectorySeparatorChar);
            if (parts.Length == 1)
            {
                continue;
            }

            Assert.True(Rooms.TryGetValue(parts[0], out string[]? allowed), $"{relative}: the room {parts[0]} is not in the table of this test");
            foreach (Match use in RoomUse().Matches(File.ReadAllText(file)))
            {
                string room = use.Groups[1].Value;
                if (room != parts[0] && Rooms.ContainsKey(room) && !allowed!.Contains(room))
                {
                    faults.Add($"{relative} uses {room}");
                }
            }
        }

        Assert.Empty(faults.Distinct());
    }

    // A room's namespace lies inside that of the front hall, so that no using betrays it.
    [Fact]
    public void No_room_uses_the_front_hall_or_a_room_by_a_relative_name()
    {
        string root = Path.Combine(Fixtures.Root(), "src", "LoraSharp");
        string[] hall = [.. typeof(LoadedModel).Assembly.GetTypes().Where(t => t.Namespace == "LoraSharp" && !t.IsNested && t.Name.All(char.IsLetter)).Select(t => t.Name)];
        Assert.Contains(nameof(EngineSetup), hall);
        var used = new Regex($@"(?<![\w.])(?:({string.Join('|', hall)})\b|({string.Join('|', Rooms.Keys)})\.[A-Z])");
        List<string> faults = [];
        foreach (string file in Sources(root))
        {
            string relative = Path.GetRelativePath(root, file);
            string room = relative.Split(Path.DirectorySeparatorChar)[0];
            if (room == relative)
            {
                continue;
            }

            foreach (Match use in used.Matches(Comment().Replace(File.ReadAllText(file), string.Empty)))
            {
                string other = use.Groups[2].Value;
                if (use.Groups[1].Success || (other != room && !Rooms[room].Contains(other)))
                {
                    faults.Add($"{relative} uses {use.Value}");
                }
            }
        }

        Assert.Empty(faults.Distinct());
    }

    private static IEnumerable<string> Sources(string folder) => Directory.EnumerateFiles(folder, "*.cs", SearchOption.AllDirectories)
        .Where(f => !f.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}") && !f.Contains($"{Path.DirectorySeparatorChar}bin{Path.DirectorySeparatorChar}"));

    [GeneratedRegex(@"\bLoraSharp\.([A-Z]\w+)")]
    private static partial Regex RoomUse();

    [GeneratedRegex("//.*")]
    private static partial Regex Comment();
}

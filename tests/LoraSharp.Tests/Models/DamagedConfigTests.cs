using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

/// <summary>Every family's config.json with its meaning damaged: it is taken, or refused by one error of ours; nothing is allocated by what it claims.</summary>
public sealed class DamagedConfigTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-config-");

    public static TheoryData<string> Families => [.. Directory.GetDirectories(Fixtures.Path("models")).Select(folder => Path.GetFileName(folder)!).Order(StringComparer.Ordinal)];

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [MemberData(nameof(Families))]
    public void Is_taken_or_refused(string family)
    {
        foreach (string file in Directory.GetFiles(Fixtures.Path("models/" + family)))
        {
            File.CreateSymbolicLink(Path.Combine(_folder.FullName, Path.GetFileName(file)), file);
        }

        string path = Path.Combine(_folder.FullName, "config.json");
        string whole = File.ReadAllText(path);
        File.Delete(path);
        int count = int.TryParse(Environment.GetEnvironmentVariable("LORASHARP_FUZZ_TIMES"), out int times) ? 20 * times : 20;
        var faults = new SortedDictionary<string, string>();
        for (int i = 0; i < count; i++)
        {
            string mutated = JsonMutations.Mutate(whole, new Random(family.Length * 7919 + i));
            File.WriteAllText(path, mutated);
            long before = GC.GetTotalAllocatedBytes();
            try
            {
                using ModelSource source = ModelSource.OpenFolder(_folder.FullName);
                using CausalLanguageModel model = ModelLoader.Load(source, new DenseLinearFactory(), ScalarType.Float32, CPU);
            }
            catch (LoraSharpException)
            {
                // As it should be.
            }
            catch (Exception error)
            {
                string place = (error.StackTrace ?? "").Split('\n').FirstOrDefault(line => line.Contains("LoraSharp.", StringComparison.Ordinal) && !line.Contains("Tests", StringComparison.Ordinal)) ?? "";
                faults.TryAdd($"{error.GetType().Name}{place}: {error.Message.Split('\n')[0]}", mutated);
            }

            long allocated = GC.GetTotalAllocatedBytes() - before;
            if (allocated > 256 << 20)
            {
                faults.TryAdd($"it allocates {allocated >> 20} MiB", mutated);
            }
        }

        Assert.True(faults.Count == 0, $"{faults.Count} kinds of {count}:\n{string.Join('\n', faults.Take(10).Select(fault => $"{fault.Key}\n    {fault.Value}"))}");
    }
}

using System.CommandLine;
using LoraSharp.Benchmarks.Serving;

namespace LoraSharp.Benchmarks;

/// <summary><c>serve-endurance MODEL</c>: see <see cref="EnduranceRun"/>. Exits 1 when one answer was wrong or anything was left in memory.</summary>
internal static class ServeEndurance
{
    public static Command Create()
    {
        var model = new Argument<string>("model");
        var minutes = new Option<double>("--minutes") { DefaultValueFactory = _ => 30 };
        var clients = new Option<int>("--clients") { DefaultValueFactory = _ => 12 };
        var rests = new Option<int>("--rests") { Description = "Times at which all rest and memory is counted.", DefaultValueFactory = _ => 15 };
        var seed = new Option<int>("--seed") { DefaultValueFactory = _ => 1 };
        var json = new Option<string?>("--json");
        var command = new Command("serve-endurance", "Mixed load with adapters that come and go, every answer checked.") { model, minutes, clients, rests, seed, json };
        command.SetAction(async (parsed, cancellation) =>
        {
            string folder = Directory.CreateTempSubdirectory("lora-endurance-").FullName;
            try
            {
                // float32: there an answer does not depend on what else is in the batch.
                using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = parsed.GetValue(model)!, DType = "float32", Device = "cpu" });
                IReadOnlyList<(string Name, string Path)> adapters = BenchServer.WriteAdapters(loaded, folder, [4, 8, 16, 8, 2], parsed.GetValue(seed));
                var options = new EnduranceOptions { Seconds = 60 * parsed.GetValue(minutes), Clients = parsed.GetValue(clients), Rests = parsed.GetValue(rests), Seed = parsed.GetValue(seed) };
                EnduranceReport report = await EnduranceRun.RunAsync(loaded, adapters, options, rest => Console.WriteLine($"{rest.Seconds,6:F0} s  {rest.Answers} answers  {rest.Tensors} tensors  {rest.ResidentMegabytes:F0} MB"), cancellation);
                Console.WriteLine(report.ToText());
                if (parsed.GetValue(json) is { } file)
                {
                    await File.WriteAllTextAsync(file, report.ToJson(), cancellation);
                }

                return report.WrongCount == 0 && report.Leaks().Count == 0 ? 0 : 1;
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        });
        return command;
    }
}

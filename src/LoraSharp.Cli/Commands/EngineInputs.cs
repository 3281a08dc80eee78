using System.CommandLine;
using LoraSharp.Formats;

namespace LoraSharp.Cli.Commands;

/// <summary>The options of every command that loads a model to compute with it.</summary>
internal sealed class EngineInputs
{
    private readonly Option<string> _model = CommonOptions.Model();
    private readonly Option<string[]> _adapters = CommonOptions.Adapters();
    private readonly Option<string> _dtype = CommonOptions.DType();
    private readonly Option<string> _device = CommonOptions.Device();
    private readonly Option<string> _quantize = CommonOptions.Quantize();
    private readonly Option<string?> _modelType = CommonOptions.ModelType();

    private readonly Option<bool> _strict = new("--strict") { Description = "Treat warnings about an adapter as errors." };

    /// <summary>Gives them to a command.</summary>
    public EngineInputs(Command command)
    {
        foreach (Option option in (Option[])[_model, _adapters, _dtype, _device, _quantize, _modelType, _strict])
        {
            command.Add(option);
        }
    }

    /// <summary>Loads what the command line names, and passes on what the adapters' loading had to say.</summary>
    public LoadedModel Load(ParseResult parsed)
    {
        LoadedModel loaded = EngineSetup.Load(new EngineOptions
        {
            Model = parsed.GetValue(_model)!,
            Adapters = [.. parsed.GetValue(_adapters)!.Select(AdapterInputs.Weighted)],
            DType = parsed.GetValue(_dtype)!,
            Device = parsed.GetValue(_device)!,
            Quantize = parsed.GetValue(_quantize)!,
            ModelType = parsed.GetValue(_modelType),
        });
        string[] warnings = [.. loaded.Adapters.Adapters.Values.SelectMany(a => a.Warnings)];
        if (warnings.Length > 0 && parsed.GetValue(_strict))
        {
            loaded.Dispose();
            throw new LoraSharpException($"{string.Join("\n  ", warnings)}\n(--strict treats these warnings as errors)");
        }

        foreach (string warning in warnings)
        {
            Console.Error.WriteLine($"warning: {warning}");
        }

        return loaded;
    }
}

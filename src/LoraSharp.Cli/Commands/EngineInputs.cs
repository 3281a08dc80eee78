using System.CommandLine;

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

    /// <summary>Gives them to a command.</summary>
    public EngineInputs(Command command)
    {
        foreach (Option option in (Option[])[_model, _adapters, _dtype, _device, _quantize, _modelType])
        {
            command.Add(option);
        }
    }

    /// <summary>Loads what the command line names.</summary>
    public LoadedModel Load(ParseResult parsed) => EngineSetup.Load(new EngineOptions
    {
        Model = parsed.GetValue(_model)!,
        Adapters = [.. parsed.GetValue(_adapters)!.Select(AdapterInputs.Weighted)],
        DType = parsed.GetValue(_dtype)!,
        Device = parsed.GetValue(_device)!,
        Quantize = parsed.GetValue(_quantize)!,
        ModelType = parsed.GetValue(_modelType),
    });
}

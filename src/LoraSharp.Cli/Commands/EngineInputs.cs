using System.CommandLine;
using LoraSharp.Adapters;

namespace LoraSharp.Cli.Commands;

/// <summary>The options of every command that loads a model to compute with it.</summary>
internal sealed class EngineInputs
{
    private readonly Option<string> _model = CommonOptions.Model();
    private readonly Option<string[]> _adapters = CommonOptions.Adapters();
    private readonly Option<string> _dtype = CommonOptions.DType();
    private readonly Option<string> _device = CommonOptions.Device();
    private readonly Option<string> _quantize = CommonOptions.Quantize();
    private readonly Option<bool> _doubleQuant = CommonOptions.DoubleQuant();
    private readonly Option<string?> _modelType = CommonOptions.ModelType();
    private readonly Option<bool> _probe = CommonOptions.Probe();
    private readonly Option<bool> _strict = CommonOptions.Strict();
    private readonly Option<bool> _anyBase = CommonOptions.AnyBase();

    /// <summary>Gives them to a command.</summary>
    public EngineInputs(Command command)
    {
        foreach (Option option in (Option[])[_model, _adapters, _dtype, _device, _quantize, _doubleQuant, _modelType, _probe, _strict, _anyBase])
        {
            command.Add(option);
        }
    }

    /// <summary>Loads what the command line names, and passes on what the adapters' loading had to say.</summary>
    public LoadedModel Load(ParseResult parsed)
    {
        (string Path, double Weight)[] adapters = [.. parsed.GetValue(_adapters)!.Select(AdapterInputs.Weighted)];
        LoadedModel loaded = EngineSetup.Load(new EngineOptions
        {
            Model = parsed.GetValue(_model)!,
            Adapters = adapters,
            AcceptOtherBases = parsed.GetValue(_anyBase),
            DType = parsed.GetValue(_dtype)!,
            Device = parsed.GetValue(_device)!,
            Quantize = parsed.GetValue(_quantize)!,
            DoubleQuantization = parsed.GetValue(_doubleQuant),
            ModelType = parsed.GetValue(_modelType),
        });
        try
        {
            var vetting = new AdapterVetting(parsed.GetValue(_probe), parsed.GetValue(_strict));
            foreach ((LoraAdapter adapter, (string path, double weight)) in loaded.Adapters.Adapters.Values.Zip(adapters))
            {
                vetting.Look(loaded, adapter, path, weight);
            }

            vetting.Settle();
        }
        catch
        {
            loaded.Dispose();
            throw;
        }

        return loaded;
    }
}

using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Cli.Commands;

/// <summary>
/// What is said about adapters when a command loads them: warnings, and with <c>--probe</c> what they do to the logits.
/// </summary>
/// <param name="probe">Print what each adapter does; a strict run looks without printing.</param>
/// <param name="strict">Fail on warnings.</param>
internal sealed class AdapterVetting(bool probe, bool strict)
{
    private readonly List<string> _warnings = [];

    /// <summary>Looks at an adapter that is loaded.</summary>
    /// <param name="loaded">The model.</param>
    /// <param name="adapter">On that model.</param>
    /// <param name="label">What the user calls it.</param>
    /// <param name="weight">Its weight.</param>
    public void Look(LoadedModel loaded, LoraAdapter adapter, string label, double weight = 1)
    {
        _warnings.AddRange(adapter.Warnings.Select(w => $"{label}: {w}"));
        if (!probe && !strict)
        {
            return;
        }

        // Whole parameters (norms) can't be weighted, which selecting them says later.
        double asked = adapter.Parameters.Count > 0 ? 1 : weight;
        AdapterProbe measured = AdapterProbe.Measure(loaded.Model, loaded.Adapters, AdapterSelection.ForAll([new(adapter, asked)]));
        if (probe)
        {
            Console.Error.WriteLine($"probe: {label} {measured}");
        }

        if (measured.MaxLogitDifference == 0 && asked != 0)
        {
            _warnings.Add($"{label}: changes no logit of {measured.Positions} positions, so the model answers as without it.");
        }
    }

    /// <summary>Loads an adapter, looks at it and takes it off again, for those who load it by other ways.</summary>
    public void Try(LoadedModel loaded, string label, string path)
    {
        using (AdapterFolder folder = EngineSetup.OpenAdapter(path, loaded.Source))
        {
            Look(loaded, loaded.Adapters.Load(folder, label), label);
        }

        loaded.Adapters.Remove(label);
    }

    /// <summary>Prints the warnings, or fails with them.</summary>
    /// <exception cref="LoraSharpException">There are some, and the run is strict.</exception>
    public void Settle()
    {
        if (strict && _warnings.Count > 0)
        {
            throw new LoraSharpException($"{string.Join("\n  ", _warnings)}\n(--strict treats these warnings as errors)");
        }

        _warnings.ForEach(w => Console.Error.WriteLine($"warning: {w}"));
    }
}

using System.Text.Json;
using System.Text.Json.Nodes;

namespace LoraSharp.Training.Rewards;

/// <summary>
/// The samples that the optimizer steps of now learn from, by micro-batch. They came from weights that are gone, so a
/// checkpoint between two of those steps must hold them.
/// </summary>
/// <param name="iterations">Optimizer steps of one sample.</param>
internal sealed class RolloutMemory(int iterations)
{
    private readonly Dictionary<long, Rollout> _rollouts = [];
    private long _sample = -1;

    /// <summary>The sample of a pass; null where it is the first on its rows.</summary>
    /// <param name="pass">Step and micro-batch, as the trainer numbers its passes.</param>
    public Rollout? Find(long pass) => SampleOf(pass) == _sample ? _rollouts.GetValueOrDefault(TrainerPass.MicroBatch(pass)) : null;

    /// <summary>Keeps a pass's sample for the steps to come; older ones are forgotten.</summary>
    public void Keep(long pass, Rollout rollout)
    {
        if (SampleOf(pass) != _sample)
        {
            _rollouts.Clear();
            _sample = SampleOf(pass);
        }

        _rollouts[TrainerPass.MicroBatch(pass)] = rollout;
    }

    /// <summary>Everything, for a checkpoint.</summary>
    public JsonObject Save() => new()
    {
        ["sample"] = _sample,
        ["rollouts"] = JsonSerializer.SerializeToNode(_rollouts),
    };

    /// <summary>Goes back to what was saved.</summary>
    public void Restore(JsonObject state)
    {
        _rollouts.Clear();
        _sample = (long)state["sample"]!;
        foreach ((long microBatch, Rollout rollout) in state["rollouts"].Deserialize<Dictionary<long, Rollout>>()!)
        {
            _rollouts.Add(microBatch, rollout);
        }
    }

    private long SampleOf(long pass) => TrainerPass.Step(pass) / iterations;
}

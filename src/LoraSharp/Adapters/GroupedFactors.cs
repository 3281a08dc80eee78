using static TorchSharp.torch;

namespace LoraSharp.Adapters;

/// <summary>
/// Several adapters on equal stretches of rows, differentiable: neighbours of one rank go through batched products,
/// y[e] += s[e]·(x[e]·A[e]ᵀ)·B[e]ᵀ, so that a layer costs a handful of operators whatever the number of adapters and its
/// activations are neither copied nor padded for each of them. What is not plain A and B goes one by one.
/// </summary>
/// <param name="adapters">For dropout.</param>
/// <param name="layer">Path of the layer.</param>
/// <param name="index">The layer's number, which its dropout mask is drawn by.</param>
internal sealed class GroupedFactors(AdapterSet adapters, string layer, int index)
{
    /// <summary>Whether the segments are stretches of one length.</summary>
    public static bool Fits(IReadOnlyList<RowSegment> segments) => segments.All(s => s.Rows == segments[0].Rows);

    /// <summary>The base's output with what the adapters add.</summary>
    /// <param name="segments">e stretches of n rows.</param>
    /// <param name="rows">x [e·n, k].</param>
    /// <param name="y">W·x + b [e, n, f], fresh: may be written to.</param>
    /// <param name="alone">Adapts one stretch: segment, x [n, k], y [n, f] → [n, f].</param>
    /// <returns>[e·n, f].</returns>
    public Tensor Add(IReadOnlyList<RowSegment> segments, Tensor rows, Tensor y, Func<RowSegment, Tensor, Tensor, Tensor> alone)
    {
        IReadOnlyList<Run> runs = Runs(segments);
        Tensor x = rows.view(segments.Count, -1, rows.shape[1]);
        if (runs is [{ IsGrouped: true } all])
        {
            y = Add(all, x, y, isFresh: true);
        }
        else
        {
            // Cut once, so that the gradients are put together once.
            long[] sizes = [.. runs.Select(r => (long)r.Segments.Count)];
            Tensor[] inputs = x.split(sizes), outputs = y.split(sizes);
            y = cat([.. runs.Select((run, i) => run.IsGrouped ? Add(run, inputs[i], outputs[i], isFresh: false)
                : run.Segments[0].Adapter is null ? outputs[i]
                : alone(run.Segments[0], inputs[i].squeeze(0), outputs[i].squeeze(0).clone()).unsqueeze(0))]);
        }

        return y.view(rows.shape[0], -1);
    }

    private Tensor Add(Run run, Tensor x, Tensor y, bool isFresh)
    {
        Tensor a = stack(run.Modules.Select(m => m.A!));
        Tensor b = stack(run.Modules.Select(m => m.B!));
        Tensor input = x.dtype == a.dtype ? x : x.to(a.dtype);
        Tensor hidden = Scaled(Dropped(input, run.Dropout).bmm(a.transpose(1, 2)), run);
        // TorchSharp's baddbmm takes what is added last: a.baddbmm(b, c) is c + a·b.
        return y.dtype == a.dtype
            ? hidden.baddbmm(b.transpose(1, 2), y)
            : (isFresh ? y : y.clone()).add_(hidden.bmm(b.transpose(1, 2)));
    }

    // The scale goes to the thin factor.
    private static Tensor Scaled(Tensor hidden, Run run)
    {
        float[] scales = [.. run.Modules.Select(m => (float)m.Scaling)];
        return Array.TrueForAll(scales, s => s == scales[0])
            ? scales[0] == 1 ? hidden : hidden * scales[0]
            : hidden * tensor(scales, [scales.Length, 1, 1], device: hidden.device);
    }

    // One mask for all stretches: by itself each adapter draws these same numbers.
    private Tensor Dropped(Tensor input, double probability)
    {
        if (!adapters.Training || probability == 0)
        {
            return input;
        }

        double keep = 1 - probability;
        Tensor mask = adapters.Dropout.Mask(empty(input.shape[1..], input.dtype, input.device), keep, index).div_(keep);
        return input * mask;
    }

    private List<Run> Runs(IReadOnlyList<RowSegment> segments)
    {
        var runs = new List<Run>();
        foreach (RowSegment segment in segments)
        {
            AdapterModule? module = segment.Adapter?.Modules.GetValueOrDefault(layer);
            bool grouped = module is not null && segment.Adapter!.RankDropout == 0 && IsPlain(module);
            double dropout = segment.Adapter?.Config.Dropout ?? 0;
            if (grouped && runs.Count > 0 && runs[^1] is { IsGrouped: true } last && last.Modules[0].Rank == module!.Rank && last.Dropout == dropout)
            {
                last.Segments.Add(segment);
                last.Modules.Add(module);
            }
            else
            {
                runs.Add(new Run(grouped, dropout, [segment with { Adapter = module is null ? null : segment.Adapter }], grouped ? [module!] : []));
            }
        }

        return runs;
    }

    private static bool IsPlain(AdapterModule module) =>
        module is { A: not null, B: not null, BBias: null, AnchorA: null, Magnitude: null, OtherWeight: null, Bias: null, TokenRows: null };

    private sealed record Run(bool IsGrouped, double Dropout, List<RowSegment> Segments, List<AdapterModule> Modules);
}

using LoraSharp.Adapters;
using LoraSharp.Serving.Cache;

namespace LoraSharp.Serving.Shelf;

/// <summary>An adapter on the device, and how many sequences run on it. A name that is replaced gets another version.</summary>
/// <param name="adapter">Its tensors; owned by the set.</param>
/// <param name="content">What prefixes computed with it are known by.</param>
internal sealed class AdapterVersion(LoraAdapter adapter, PrefixKey content)
{
    public LoraAdapter Adapter { get; } = adapter;

    public PrefixKey Content { get; private set; } = content;

    /// <summary>Whether it is folded into weights of its own.</summary>
    public bool IsMerged { get; private set; }

    /// <summary>Memory on the device.</summary>
    public long Bytes { get; } = adapter.Bytes;

    /// <summary>Sequences that run on it.</summary>
    public int Users { get; set; }

    /// <summary>Whether its name means something else by now.</summary>
    public bool IsRetired { get; set; }

    /// <summary>Whether it can share a forward pass with others: not where it is merged, replaces parameters of the whole model, or changes experts, whose rows the router shuffles.</summary>
    public bool NeedsOwnPass => IsMerged || Adapter.RunsAlone;

    /// <summary>It was folded into weights of its own, or is no more: what it computes differs by rounding, and so do its prefixes.</summary>
    public void Merged(bool merged)
    {
        if (IsMerged != merged)
        {
            IsMerged = merged;
            Content = Content.Next([merged ? 1 : 0]);
        }
    }
}

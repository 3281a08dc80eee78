using LoraSharp.Adapters;

namespace LoraSharp.Serving.Shelf;

/// <summary>
/// An adapter on its way to the device: its file is read on another thread, then its tensors are made on the engine's,
/// some at a time.
/// </summary>
/// <param name="entry">What it will be.</param>
internal sealed class AdapterLoad(AdapterEntry entry)
{
    private AdapterLoader? _loader;

    /// <summary>The entry it belongs to, or that it will put in the place of one of the same name.</summary>
    public AdapterEntry Entry { get; } = entry;

    /// <summary>The file, once it was read.</summary>
    public HostAdapter? Host { get; set; }

    /// <summary>Told how it ended.</summary>
    public List<TaskCompletionSource<AdapterInfo>> Callers { get; } = [];

    /// <summary>Requests that wait for it.</summary>
    public HashSet<RunningSequence> Sequences { get; } = [];

    /// <summary>Makes tensors until the time is up.</summary>
    /// <param name="set">Where they go.</param>
    /// <param name="name">Name in the set.</param>
    /// <param name="timeIsUp">Asked after each tensor.</param>
    /// <returns>The adapter when it is whole; null while it is not.</returns>
    public LoraAdapter? Advance(AdapterSet set, string name, Func<bool> timeIsUp)
    {
        _loader ??= set.BeginLoad(Host!.Folder, name);
        while (_loader.PlaceNext())
        {
            if (timeIsUp())
            {
                return null;
            }
        }

        LoraAdapter adapter = _loader.Complete();
        set.Add(adapter);
        return adapter;
    }

    /// <summary>Frees what was made.</summary>
    public void Abandon() => _loader?.Abandon();
}

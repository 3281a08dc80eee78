using System.Collections.Immutable;
using LoraSharp.Adapters;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Serving.Cache;
using LoraSharp.Tensors.Interop;

namespace LoraSharp.Serving.Shelf;

/// <summary>
/// Registered adapters and where each of them is: on disk, its file in memory, its tensors on the device. The least
/// recently used idle one makes room. A name may be replaced or taken away while sequences run on it: they keep the
/// version they started with, which is freed when the last of them has ended. Used on the engine's thread.
/// </summary>
internal sealed class AdapterShelf
{
    // Of a step of tens of milliseconds.
    private static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(2);

    private readonly AdapterSet _set;
    private readonly Func<string, AdapterFolder> _open;
    private readonly EngineLimits _limits;
    private readonly Action<Action> _post;
    private readonly EngineMetrics _metrics;
    private readonly TimeProvider _clock;
    private readonly Dictionary<string, AdapterEntry> _entries = new(StringComparer.Ordinal);
    private readonly HashSet<AdapterLoad> _loads = [];
    private readonly Queue<AdapterLoad> _fetched = new();
    private readonly long _hostBudget;
    private ImmutableSortedDictionary<string, AdapterInfo> _infos = ImmutableSortedDictionary.Create<string, AdapterInfo>(StringComparer.Ordinal);
    private AdapterUse _use = new(0, 0, 0, 0, 0);
    private long _uses;
    private int _versions;
    private int _onDevice;
    private long _deviceBytes;

    /// <summary>Creates an empty shelf.</summary>
    /// <param name="set">The model's adapters.</param>
    /// <param name="open">Opens an adapter by its path; called on other threads.</param>
    /// <param name="limits">Budgets.</param>
    /// <param name="post">Has something done on the engine's thread.</param>
    /// <param name="metrics">Told of loads.</param>
    /// <param name="clock">For slices of time.</param>
    /// <param name="onCpu">Whether device and host are the same memory.</param>
    public AdapterShelf(AdapterSet set, Func<string, AdapterFolder> open, EngineLimits limits, Action<Action> post, EngineMetrics metrics, TimeProvider clock, bool onCpu)
    {
        _set = set;
        _open = open;
        _limits = limits;
        _post = post;
        _metrics = metrics;
        _clock = clock;
        _hostBudget = limits.AdapterHostMemory ?? (onCpu ? 0 : 4L << 30);
    }

    /// <summary>What is registered, by name; a snapshot for any thread.</summary>
    public ImmutableSortedDictionary<string, AdapterInfo> Infos => Volatile.Read(ref _infos);

    /// <summary>How many are where.</summary>
    public AdapterUse Use => _use;

    /// <summary>Whether <see cref="Advance"/> has tensors to make.</summary>
    public bool HasWork => _fetched.Count > 0;

    /// <summary>Registers a name without reading anything.</summary>
    public void Register(string name, string path) => Put(new AdapterEntry(name, path));

    /// <summary>Loads an adapter and registers it when it is whole; when that fails, what was there before stays.</summary>
    public Task<AdapterInfo> LoadAsync(string name, string path)
    {
        var done = new TaskCompletionSource<AdapterInfo>(TaskCreationOptions.RunContinuationsAsynchronously);
        var load = new AdapterLoad(new AdapterEntry(name, path));
        load.Callers.Add(done);
        Fetch(load);
        return done.Task;
    }

    /// <summary>Sees to it that a registered adapter is on the device.</summary>
    /// <exception cref="UnknownAdapterException">There is none.</exception>
    public Task<AdapterInfo> WarmAsync(string name)
    {
        AdapterEntry entry = Find(name);
        if (entry.Version is not null)
        {
            return Task.FromResult(entry.Info);
        }

        var done = new TaskCompletionSource<AdapterInfo>(TaskCreationOptions.RunContinuationsAsynchronously);
        Demand(entry).Callers.Add(done);
        return done.Task;
    }

    /// <summary>Keeps an adapter where it is, or lets it make room again.</summary>
    /// <exception cref="UnknownAdapterException">There is none.</exception>
    public void Pin(string name, bool pinned)
    {
        AdapterEntry entry = Find(name);
        entry.IsPinned = pinned;
        Tell(entry);
    }

    /// <summary>Folds an adapter that is on the device into weights of its own, in the place of the one that is.</summary>
    /// <param name="name">Which; null for none.</param>
    public AdapterInfo? Merge(string? name)
    {
        AdapterEntry? next = name is null ? null : Find(name);
        if (next is { Version: null })
        {
            throw new LoraSharpException($"Adapter '{name}' made room for others meanwhile. Try again, or pin it.");
        }

        foreach (AdapterEntry before in _entries.Values.Where(e => e.Version is { IsMerged: true }))
        {
            before.Version!.Merged(false);
            before.IsPinned = false;
            Tell(before);
        }

        _set.Unfold();
        if (next is null)
        {
            return null;
        }

        _set.Fold(next.Version!.Adapter.Name);
        next.Version.Merged(true);
        next.IsPinned = true;
        Tell(next);
        return next.Info;
    }

    /// <summary>Takes a name away.</summary>
    /// <exception cref="UnknownAdapterException">There is none.</exception>
    public void Unload(string name)
    {
        AdapterEntry entry = Find(name);
        _entries.Remove(name);
        Volatile.Write(ref _infos, _infos.Remove(name));
        Withdraw(entry);
        Count();
    }

    /// <summary>
    /// The current version for a new sequence; give it back with <see cref="Return"/>. Null while it is being loaded: the
    /// sequence is told when that fails.
    /// </summary>
    /// <exception cref="UnknownAdapterException">There is none of this name.</exception>
    public AdapterVersion? TryTake(string name, RunningSequence sequence)
    {
        AdapterEntry entry = Find(name);
        entry.LastUsed = ++_uses;
        if (entry.Version is { } version)
        {
            version.Users++;
            return version;
        }

        Demand(entry).Sequences.Add(sequence);
        return null;
    }

    /// <summary>The current version where it is on the device, to be given back with <see cref="Return"/>; null where it is not.</summary>
    /// <exception cref="UnknownAdapterException">There is none of this name.</exception>
    public AdapterVersion? TakeReady(string name)
    {
        AdapterEntry entry = Find(name);
        entry.LastUsed = ++_uses;
        if (entry.Version is { } version)
        {
            version.Users++;
        }

        return entry.Version;
    }

    /// <summary>A sequence on this version has ended.</summary>
    public void Return(AdapterVersion version)
    {
        version.Users--;
        if (version is { Users: 0, IsRetired: true })
        {
            Free(version);
        }
    }

    /// <summary>Makes tensors of adapters whose files are there, for a few milliseconds.</summary>
    /// <returns>Whether one became ready, or failed: whoever waited for it can go on.</returns>
    public bool Advance()
    {
        long start = _clock.GetTimestamp();
        bool ended = false;
        while (_fetched.TryPeek(out AdapterLoad? load) && _clock.GetElapsedTime(start) < Slice)
        {
            try
            {
                // Where everything there is in use, it waits for a sequence to end.
                if (!MakeRoom(load.Host!.DeviceBytes(_set.RoundFactors)) || load.Advance(_set, $"{load.Entry.Name}#{_versions + 1}", () => _clock.GetElapsedTime(start) > Slice) is not { } adapter)
                {
                    return ended;
                }

                _versions++;
                _fetched.Dequeue();
                Complete(load, adapter);
            }
            catch (Exception error) when (error is not OutOfMemoryException)
            {
                _fetched.Dequeue();
                Fail(load, error);
            }

            ended = true;
        }

        return ended;
    }

    /// <summary>Ends all loads and frees what was loaded; nobody runs any more.</summary>
    public void Stop(Exception error)
    {
        foreach (AdapterLoad load in _loads.ToArray())
        {
            Fail(load, error);
        }

        _fetched.Clear();
        foreach (AdapterEntry entry in _entries.Values)
        {
            Withdraw(entry);
        }
    }

    /// <summary>The error for a name that is not registered.</summary>
    public UnknownAdapterException Unknown(string name) =>
        new($"There is no model '{name}'. Adapters: {(_entries.Count == 0 ? "none" : string.Join(", ", _infos.Keys.Take(50)))}.");

    private AdapterEntry Find(string name) => _entries.TryGetValue(name, out AdapterEntry? entry) ? entry : throw Unknown(name);

    private AdapterLoad Demand(AdapterEntry entry)
    {
        if (entry.Load is null)
        {
            entry.Load = new AdapterLoad(entry) { Host = entry.Host };
            Fetch(entry.Load);
        }

        return entry.Load;
    }

    private void Fetch(AdapterLoad load)
    {
        _loads.Add(load);
        if (load.Host is not null)
        {
            _fetched.Enqueue(load);
            return;
        }

        Func<string, AdapterFolder> open = _open;
        _ = Task.Run(() =>
        {
            try
            {
                load.Host = HostAdapter.Read(open(load.Entry.Path));
                _post(() => _fetched.Enqueue(load));
            }
            catch (Exception error)
            {
                _post(() => Fail(load, error));
            }
            finally
            {
                WorkerThreads.Release();
            }
        });
    }

    private void Complete(AdapterLoad load, LoraAdapter adapter)
    {
        AdapterEntry entry = load.Entry;
        bool isCurrent = _entries.TryGetValue(entry.Name, out AdapterEntry? current) && current == entry;
        if (entry.Load == load && !isCurrent)
        {
            // Its name was taken away or given to another meanwhile: whoever waits for it sees when it asks again.
            load.Sequences.Clear();
            Fail(load, Unknown(entry.Name));
            _set.Remove(adapter.Name);
            return;
        }

        _loads.Remove(load);
        entry.Load = null;
        entry.Host = load.Host;
        entry.Rank = adapter.Config.Rank;
        entry.LastUsed = ++_uses;
        if (!isCurrent)
        {
            entry.IsPinned = current?.IsPinned ?? false;
            Put(entry);
        }

        entry.Version = new AdapterVersion(adapter, PrefixKey.Start(load.Host!.Hash));
        _onDevice++;
        _deviceBytes += entry.Version.Bytes;
        Count();
        TrimHost();
        Tell(entry);
        _metrics.AdapterLoad(loaded: true);
        foreach (RunningSequence sequence in load.Sequences.Where(s => !s.HasEnded && s.Adapter is null))
        {
            // At once, before it could have to make room for the next.
            sequence.Adapter = entry.Version;
            entry.Version.Users++;
        }

        foreach (TaskCompletionSource<AdapterInfo> caller in load.Callers)
        {
            caller.SetResult(entry.Info);
        }
    }

    private void Fail(AdapterLoad load, Exception error)
    {
        _loads.Remove(load);
        load.Abandon();
        if (load.Entry.Load == load)
        {
            load.Entry.Load = null;
        }

        _metrics.AdapterLoad(loaded: false);
        load.Callers.ForEach(c => c.TrySetException(error));
        foreach (RunningSequence sequence in load.Sequences)
        {
            sequence.Fail(error);
        }
    }

    private void Put(AdapterEntry entry)
    {
        if (_entries.Remove(entry.Name, out AdapterEntry? old))
        {
            Withdraw(old);
        }

        _entries[entry.Name] = entry;
        Tell(entry);
        Count();
    }

    private void Withdraw(AdapterEntry entry)
    {
        entry.Host = null;
        if (entry.Version is { } version)
        {
            entry.Version = null;
            version.IsRetired = true;
            if (version.Users == 0)
            {
                Free(version);
            }
        }
    }

    private void Free(AdapterVersion version)
    {
        _set.Remove(version.Adapter.Name);
        _onDevice--;
        _deviceBytes -= version.Bytes;
        Count();
    }

    // False when what would have to go is in use.
    private bool MakeRoom(long bytes)
    {
        if (bytes > _limits.AdapterMemory)
        {
            throw new LoraSharpException($"The adapter takes {bytes >> 20} MB; all adapters together may take {_limits.AdapterMemory >> 20} MB.");
        }

        while (_onDevice >= _limits.MaxLoadedAdapters || _deviceBytes + bytes > _limits.AdapterMemory)
        {
            AdapterEntry? idle = _entries.Values.Where(e => e is { IsPinned: false, Version.Users: 0 }).MinBy(e => e.LastUsed);
            if (idle is null)
            {
                return _entries.Values.Any(e => e.Version is { Users: > 0 }) || _onDevice > _entries.Values.Count(e => e.Version is not null)
                    ? false
                    : throw new LoraSharpException($"There is no room for another adapter: the {_onDevice} in memory are pinned.");
            }

            Free(idle.Version!);
            idle.Version = null;
            Count();
            Tell(idle);
        }

        return true;
    }

    private void TrimHost()
    {
        while (_use.HostBytes > _hostBudget && _entries.Values.Where(e => e.Host is not null && !(e.IsPinned && e.Version is null)).MinBy(e => e.LastUsed) is { } oldest)
        {
            oldest.Host = null;
            Count();
            Tell(oldest);
        }
    }

    private void Tell(AdapterEntry entry) => Volatile.Write(ref _infos, _infos.SetItem(entry.Name, entry.Info));

    // After changes only: a step costs the same whether ten or a thousand are registered.
    private void Count()
    {
        int onHost = 0, onDisk = 0;
        long hostBytes = 0;
        foreach (AdapterEntry entry in _entries.Values)
        {
            onDisk += entry is { Version: null, Host: null } ? 1 : 0;
            onHost += entry is { Version: null, Host: not null } ? 1 : 0;
            hostBytes += entry.Host?.Bytes ?? 0;
        }

        _use = new AdapterUse(_onDevice, onHost, onDisk, _deviceBytes, hostBytes);
    }
}

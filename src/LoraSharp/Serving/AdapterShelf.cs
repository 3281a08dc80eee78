using LoraSharp.Adapters;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Serving;

/// <summary>
/// Registered adapters and their versions in memory. A name may be replaced or taken away while sequences run on it:
/// they keep the version they started with, which is freed when the last of them has ended. Used on the engine's thread.
/// </summary>
internal sealed class AdapterShelf(AdapterSet set, Func<string, AdapterFolder> open, int most)
{
    private readonly Dictionary<string, Entry> _entries = new(StringComparer.Ordinal);
    private readonly List<AdapterVersion> _retired = [];
    private long _clock;
    private int _versions;

    /// <summary>What is registered, by name.</summary>
    public IReadOnlyList<AdapterInfo> Infos => [.. _entries.Values.OrderBy(e => e.Name, StringComparer.Ordinal).Select(e => new AdapterInfo(e.Name, e.Path, e.Version is not null, e.Rank))];

    /// <summary>Registers a name without reading anything.</summary>
    public void Register(string name, string path)
    {
        if (_entries.Remove(name, out Entry? old))
        {
            Retire(old);
        }

        _entries[name] = new Entry(name, path);
    }

    /// <summary>Registers a name and loads it; when that fails, what was there before stays.</summary>
    public AdapterInfo Load(string name, string path)
    {
        AdapterVersion version = Read(name, path);
        Register(name, path);
        Entry entry = _entries[name];
        entry.Version = version;
        entry.Rank = version.Adapter.Config.Rank;
        entry.LastUsed = ++_clock;
        MakeRoom(entry);
        return new AdapterInfo(name, path, true, entry.Rank);
    }

    /// <summary>Takes a name away.</summary>
    /// <exception cref="UnknownAdapterException">There is none.</exception>
    public void Unload(string name)
    {
        if (!_entries.Remove(name, out Entry? entry))
        {
            throw Unknown(name);
        }

        Retire(entry);
    }

    /// <summary>The current version for a new sequence, loaded if need be; give it back with <see cref="Return"/>.</summary>
    public AdapterVersion Take(string name)
    {
        if (!_entries.TryGetValue(name, out Entry? entry))
        {
            throw Unknown(name);
        }

        entry.Version ??= Read(name, entry.Path);
        entry.Rank = entry.Version.Adapter.Config.Rank;
        entry.LastUsed = ++_clock;
        entry.Version.Users++;
        MakeRoom(entry);
        return entry.Version;
    }

    /// <summary>A sequence on this version has ended.</summary>
    public void Return(AdapterVersion version)
    {
        version.Users--;
        if (version.Users == 0 && _retired.Remove(version))
        {
            set.Remove(version.Adapter.Name);
        }
    }

    /// <summary>The error for a name that is not registered.</summary>
    public UnknownAdapterException Unknown(string name) =>
        new($"There is no model '{name}'. Adapters: {(_entries.Count == 0 ? "none" : string.Join(", ", _entries.Keys.Order(StringComparer.Ordinal).Take(50)))}.");

    /// <summary>Whether a name is registered.</summary>
    public bool Has(string name) => _entries.ContainsKey(name);

    private AdapterVersion Read(string name, string path)
    {
        using AdapterFolder folder = open(path);
        return new AdapterVersion(set.Load(folder, $"{name}#{++_versions}"));
    }

    private void MakeRoom(Entry keep)
    {
        while (_entries.Values.Count(e => e.Version is not null) > most
            && _entries.Values.Where(e => e != keep && e.Version is { Users: 0 }).MinBy(e => e.LastUsed) is { } idle)
        {
            Retire(idle);
            idle.Version = null;
        }
    }

    private void Retire(Entry entry)
    {
        if (entry.Version is not { } version)
        {
            return;
        }

        if (version.Users == 0)
        {
            set.Remove(version.Adapter.Name);
        }
        else
        {
            _retired.Add(version);
        }
    }

    private sealed class Entry(string name, string path)
    {
        public string Name { get; } = name;

        public string Path { get; } = path;

        public AdapterVersion? Version { get; set; }

        public int Rank { get; set; }

        public long LastUsed { get; set; }
    }
}

/// <summary>A loaded adapter and how many sequences run on it.</summary>
internal sealed class AdapterVersion(LoraAdapter adapter)
{
    public LoraAdapter Adapter { get; } = adapter;

    public int Users { get; set; }
}

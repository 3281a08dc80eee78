namespace LoraSharp.Serving.Shelf;

/// <summary>A registered name: where its adapter lies, and what of it is in memory.</summary>
/// <param name="name">What requests call it.</param>
/// <param name="path">Folder, file or hub name.</param>
internal sealed class AdapterEntry(string name, string path)
{
    public string Name { get; } = name;

    public string Path { get; } = path;

    /// <summary>Its tensors on the device; null for not there.</summary>
    public AdapterVersion? Version { get; set; }

    /// <summary>Its file in memory; null for not there.</summary>
    public HostAdapter? Host { get; set; }

    /// <summary>A load under way that requests wait for; null for none.</summary>
    public AdapterLoad? Load { get; set; }

    /// <summary>Never makes room for others.</summary>
    public bool IsPinned { get; set; }

    /// <summary>Its rank; 0 before it was first loaded.</summary>
    public int Rank { get; set; }

    /// <summary>Larger is more recent.</summary>
    public long LastUsed { get; set; }

    /// <summary>As others see it.</summary>
    public AdapterInfo Info => new(Name, Path, Version is not null, Rank)
    {
        Place = Version is not null ? AdapterPlace.Device : Host is not null ? AdapterPlace.Host : AdapterPlace.Disk,
        IsPinned = IsPinned,
        IsMerged = Version?.IsMerged ?? false,
        Bytes = Version?.Bytes ?? Host?.Bytes ?? 0,
    };
}

using LoraSharp.Adapters;

namespace LoraSharp.Serving.Cuda;

/// <summary>Which adapter lies in which slot of a decoder: numbers alone. The longest unused one makes room.</summary>
/// <param name="count">Slots.</param>
internal sealed class AdapterSlots(int count)
{
    private readonly Dictionary<LoraAdapter, (int Slot, long Used)> _places = [];
    private readonly Stack<int> _free = new(Enumerable.Range(0, count).Reverse());
    private long _clock;

    /// <summary>Slots of the adapters of one step, or null when there are more than slots; <paramref name="load"/> is called for each newcomer.</summary>
    public IReadOnlyDictionary<LoraAdapter, int>? Take(IReadOnlyCollection<LoraAdapter> wanted, Action<int, LoraAdapter> load)
    {
        if (wanted.Count > count)
        {
            return null;
        }

        _clock++;
        foreach (LoraAdapter known in wanted.Where(_places.ContainsKey))
        {
            _places[known] = (_places[known].Slot, _clock);
        }

        foreach (LoraAdapter adapter in wanted.Where(a => !_places.ContainsKey(a)).ToArray())
        {
            int slot = _free.TryPop(out int free) ? free : Evict();
            load(slot, adapter);
            _places[adapter] = (slot, _clock);
        }

        return wanted.ToDictionary(a => a, a => _places[a].Slot);
    }

    private int Evict()
    {
        (LoraAdapter oldest, (int slot, long _)) = _places.MinBy(p => p.Value.Used);
        _places.Remove(oldest);
        return slot;
    }
}

using System.Security.Cryptography;
using System.Text;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Serving.Shelf;

/// <summary>An adapter's file in memory, read and checked for everything that needs no model; made on any thread.</summary>
internal sealed class HostAdapter : IDisposable
{
    private HostAdapter(AdapterFolder folder, byte[] hash, long bytes)
    {
        Folder = folder;
        Hash = hash;
        Bytes = bytes;
    }

    /// <summary>Configuration and tensors, all in memory.</summary>
    public AdapterFolder Folder { get; }

    /// <summary>SHA-256 of all that decides what the adapter computes: two folders with the same content have the same.</summary>
    public byte[] Hash { get; }

    /// <summary>Bytes of the tensors.</summary>
    public long Bytes { get; }

    /// <summary>Most bytes that its tensors take on the device: float32, and a copy of the factors in bfloat16 where they are so.</summary>
    /// <param name="rounded">Whether all factors are rounded to bfloat16.</param>
    public long DeviceBytes(bool rounded) => Folder.Parts.Sum(p => (rounded || p.Info.Type == ElementType.BF16 ? 6 : 4) * p.Info.Count);

    /// <summary>Reads an adapter whole; <paramref name="folder"/> is disposed.</summary>
    public static HostAdapter Read(AdapterFolder folder)
    {
        using (folder)
        {
            using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            var tensors = new Dictionary<string, TensorData>(StringComparer.Ordinal);
            foreach (AdapterTensor part in folder.Parts)
            {
                byte[] bytes = folder.Tensors.Read(part.Key).Slice(0, checked((int)part.Info.ByteCount)).ToArray();
                tensors.Add(part.Key, new TensorData(part.Info, bytes));
                hash.AppendData(Encoding.UTF8.GetBytes($"{part.Key}\n{part.Info.Type}{part.Info.ShapeText}\n"));
                hash.AppendData(bytes);
            }

            hash.AppendData(Encoding.UTF8.GetBytes(Settings(folder)));
            var memory = new MemoryTensors(folder.Location, tensors, folder.Tensors.Metadata);
            return new HostAdapter(new AdapterFolder(folder.Location, folder.Config, memory), hash.GetHashAndReset(), tensors.Values.Sum(t => t.Info.ByteCount));
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Folder.Dispose();

    // What of the configuration takes part in the computation.
    private static string Settings(AdapterFolder folder)
    {
        PeftConfig config = folder.Config;
        var text = new StringBuilder();
        foreach (string module in folder.Parts.Select(p => p.Module).Distinct(StringComparer.Ordinal))
        {
            text.Append(FormattableString.Invariant($"{module} {PeftMatching.ScalingOf(config, module):R}\n"));
        }

        text.Append(FormattableString.Invariant($"dora {config.UseDora} bias {config.Bias} lora_bias {config.LoraBias} fan_in_fan_out {config.FanInFanOut} init {config.InitLoraWeights}\n"));
        foreach ((string target, IReadOnlyList<long> ids) in config.TrainableTokens ?? new Dictionary<string, IReadOnlyList<long>>())
        {
            text.Append(FormattableString.Invariant($"tokens {target} {string.Join(' ', ids)}\n"));
        }

        return text.ToString();
    }

    private sealed class MemoryTensors(string location, IReadOnlyDictionary<string, TensorData> tensors, IReadOnlyDictionary<string, string> metadata) : ITensorSource
    {
        public IReadOnlyDictionary<string, string> Metadata => metadata;

        public string Location => location;

        public IReadOnlyDictionary<string, TensorInfo> Tensors { get; } = tensors.ToDictionary(t => t.Key, t => t.Value.Info, StringComparer.Ordinal);

        public TensorData Read(string name) => tensors.TryGetValue(name, out TensorData data) ? data : throw new LoraSharpException($"{location}: there is no tensor '{name}'.");

        public void Dispose()
        {
        }
    }
}

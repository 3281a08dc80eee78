using LoraSharp.Formats;
using LoraSharp.Models;
using LoraSharp.Serving.Cache;
using static TorchSharp.torch;

namespace LoraSharp.Serving;

/// <summary>Bounds of an engine.</summary>
public sealed record EngineLimits
{
    /// <summary>Sequences computed side by side.</summary>
    public int MaxBatch { get; init; } = 16;

    /// <summary>Requests that may wait; one more is refused.</summary>
    public int MaxWaiting { get; init; } = 256;

    /// <summary>Longest sequence, prompt and answer; 0 for the model's own limit.</summary>
    public int MaxLength { get; init; }

    /// <summary>Tokens computed in one step: long prompts are cut into pieces of this size, between which others get their next token.</summary>
    public int StepTokens { get; init; } = 256;

    /// <summary>
    /// Bytes of the key-value cache; 0 for what <see cref="MaxBatch"/> sequences of full length need, at most 1 GB (or one
    /// such sequence, where that is more) and a quarter of the memory.
    /// </summary>
    public long KeyValueMemory { get; init; }

    /// <summary>Tokens in the key-value cache, where that is less than its memory; 0 for no such bound.</summary>
    public long CacheTokens { get; init; }

    /// <summary>Tokens a block of the key-value cache.</summary>
    public int BlockSize { get; init; } = 16;

    /// <summary>Whether prompts that begin alike (and use adapters of the same content) share their blocks.</summary>
    public bool PrefixCache { get; init; } = true;

    /// <summary>Adapters on the device; the least recently used idle one makes room.</summary>
    public int MaxLoadedAdapters { get; init; } = 64;

    /// <summary>Bytes of adapters on the device.</summary>
    public long AdapterMemory { get; init; } = 8L << 30;

    /// <summary>Bytes of adapters' files kept in memory; null for 4 GB with a GPU and none without, where they would lie twice in the same memory.</summary>
    public long? AdapterHostMemory { get; init; }

    /// <summary>
    /// Whether a Llama-shaped bf16 base on a GPU runs by the decoder with kernels and graphs of its own; what it does not know
    /// goes the plain way. Default true.
    /// </summary>
    public bool FusedDecode { get; init; } = true;

    // Bytes of the cache that are taken without being asked for: a laptop does other things too.
    private const long Usual = 1L << 30;

    /// <summary>Fails with every value that is out of range.</summary>
    public EngineLimits Validate()
    {
        List<string> faults = [];
        Check(MaxBatch >= 1, $"max batch {MaxBatch}: expected 1 or more");
        Check(MaxWaiting >= 1, $"max waiting {MaxWaiting}: expected 1 or more");
        Check(MaxLength >= 0, $"max length {MaxLength}: expected 0 (the model's) or more");
        Check(StepTokens >= MaxBatch, $"step tokens {StepTokens}: expected at least the batch of {MaxBatch}");
        Check(KeyValueMemory >= 0, $"key-value memory {KeyValueMemory}: expected 0 (automatic) or more bytes");
        Check(CacheTokens >= 0, $"cache tokens {CacheTokens}: expected 0 (no bound) or more");
        Check(BlockSize is >= 1 and <= 1024, $"block size {BlockSize}: expected 1 to 1024");
        Check(MaxLoadedAdapters >= 1, $"max loaded adapters {MaxLoadedAdapters}: expected 1 or more");
        Check(AdapterMemory >= 0 && AdapterHostMemory is null or >= 0, "adapter memory: expected 0 or more bytes");
        return faults.Count == 0 ? this : throw new LoraSharpException($"Engine limits out of range:\n  {string.Join("\n  ", faults)}");

        void Check(bool fine, string fault)
        {
            if (!fine)
            {
                faults.Add(fault);
            }
        }
    }

    /// <summary>Blocks that fit the memory.</summary>
    /// <param name="config">The model.</param>
    /// <param name="dtype">Type of keys and values.</param>
    /// <param name="longest">Longest sequence.</param>
    internal int Blocks(DecoderConfig config, ScalarType dtype, int longest)
    {
        long perBlock = PagedCache.BytesPerToken(config, dtype) * BlockSize;
        long blocks = KeyValueMemory / perBlock;
        if (KeyValueMemory == 0)
        {
            long one = (Math.Min(longest, 1 << 20) + BlockSize - 1) / BlockSize;
            long usual = Math.Max(one, Usual / perBlock);
            blocks = Math.Min(Math.Min(MaxBatch * one, usual), GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 4 / perBlock);
        }

        blocks = CacheTokens > 0 ? Math.Min(blocks, CacheTokens / BlockSize) : blocks;
        return blocks >= 1
            ? (int)Math.Min(blocks, int.MaxValue / BlockSize)
            : throw new LoraSharpException($"The key-value cache holds not a single block: a block of {BlockSize} tokens of this model takes {perBlock} bytes. Raise the memory for it.");
    }
}

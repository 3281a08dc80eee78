using System.Runtime.InteropServices;

namespace LoraSharp.Tensors.Interop;

/// <summary>How the C library keeps freed memory, on Linux with glibc; elsewhere nothing is done.</summary>
public static partial class HostAllocator
{
    private const int MmapThreshold = -3;

    /// <summary>
    /// Blocks from 1 MiB on go back to the system when they are freed. By itself glibc raises that limit to 32 MiB once such
    /// blocks are freed, and activations of changing sizes then fragment its heap: SmolLM2, r = 8, 4 × 128 tokens in float32
    /// peaked at 2.24 GB with it and 1.82 GB without, at 54 instead of 61 % of the matrix-product rate
    /// (docs/benchmarks/train-cpu.md). For training; decoding allocates too little to gain.
    /// </summary>
    public static void ReturnLargeBlocks()
    {
        if (!OperatingSystem.IsLinux())
        {
            return;
        }

        try
        {
            _ = mallopt(MmapThreshold, 1 << 20);
        }
        catch (Exception error) when (error is EntryPointNotFoundException or DllNotFoundException)
        {
            // Another C library (musl): its allocator has no such setting.
        }
    }

    [LibraryImport("libc")]
    private static partial int mallopt(int parameter, int value);
}

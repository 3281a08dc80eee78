using System.Runtime.InteropServices;

namespace LoraSharp.Tensors.Interop;

/// <summary>How the C library keeps freed memory, on Linux with glibc; elsewhere nothing is done.</summary>
public static partial class HostAllocator
{
    private const int TrimThreshold = -1;
    private const int MmapThreshold = -3;

    /// <summary>
    /// Blocks from 1 MiB on go back to the system when they are freed: the least memory, at the price of pages that the
    /// system zeroes anew for every activation.
    /// </summary>
    public static void ReturnLargeBlocks() => Set(MmapThreshold, 1 << 20);

    /// <summary>
    /// Freed blocks up to 32 MiB (the most that glibc takes here) stay with the process and are used again: a fifth to a quarter
    /// less time a training step than with <see cref="ReturnLargeBlocks"/>, and as much to half as much memory more, because
    /// activations of changing sizes leave gaps (docs/benchmarks/train-cpu.md).
    /// </summary>
    public static void KeepBlocks()
    {
        Set(MmapThreshold, 32 << 20);
        Set(TrimThreshold, int.MaxValue);
    }

    private static void Set(int parameter, int value)
    {
        if (!OperatingSystem.IsLinux())
        {
            return;
        }

        try
        {
            _ = mallopt(parameter, value);
        }
        catch (Exception error) when (error is EntryPointNotFoundException or DllNotFoundException)
        {
            // Another C library (musl): its allocator has no such setting.
        }
    }

    [LibraryImport("libc")]
    private static partial int mallopt(int parameter, int value);
}

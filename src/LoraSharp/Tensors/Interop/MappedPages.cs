using System.Runtime.InteropServices;

namespace LoraSharp.Tensors.Interop;

/// <summary>
/// Gives the memory of mapped file pages back. A checkpoint in bfloat16 that is converted to float32 while loading would
/// otherwise stay in memory beside its copy; read again, the pages come back from the file.
/// </summary>
internal static unsafe partial class MappedPages
{
    // MADV_DONTNEED on Linux and macOS. The maps are read-only, so nothing can be lost.
    private const int DontNeed = 4;

    public static void Release(nint address, long bytes)
    {
        if (!OperatingSystem.IsLinux() && !OperatingSystem.IsMacOS())
        {
            return;
        }

        // Whole pages only: those at the edges hold neighbours' data too.
        nint page = Environment.SystemPageSize;
        nint begin = (address + page - 1) / page * page;
        nint end = (nint)(address + bytes) / page * page;
        if (end > begin)
        {
            _ = madvise(begin, (nuint)(end - begin), DontNeed);
        }
    }

    [LibraryImport("libc")]
    private static partial int madvise(nint address, nuint length, int advice);
}

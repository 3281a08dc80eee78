using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace LoraSharp.Tensors.Interop;

/// <summary>Work on a range of indices, e.g. rows of a matrix. An implementation holds pointers and numbers only.</summary>
public interface IRangeWork
{
    /// <summary>Does indices <paramref name="begin"/> (included) to <paramref name="end"/> (excluded). Must not throw.</summary>
    void Run(long begin, long end);
}

/// <summary>
/// Runs own kernels on libtorch's own worker threads (<c>at::parallel_for</c>). A second pool would fight with the one
/// that the matrix products keep spinning: on two cores that costs more than the kernels themselves.
/// </summary>
public static unsafe partial class ParallelRange
{
    private const string Library = "torch_cpu";

    /// <summary>Splits a range among the threads and waits for all of them.</summary>
    /// <param name="begin">First index.</param>
    /// <param name="end">One past the last.</param>
    /// <param name="grain">Fewest indices worth a thread of their own; up to this many run on the calling thread.</param>
    /// <param name="work">Copied to nowhere: every thread works on this one instance.</param>
    public static void For<T>(long begin, long end, long grain, ref T work)
        where T : unmanaged, IRangeWork
    {
        if (end - begin <= grain || NativeRuntime.EnsureLoaded().Export(Library, "torch_parallel_for") == 0)
        {
            work.Run(begin, end);
            return;
        }

        fixed (T* pinned = &work)
        {
            var call = new Call { Function = &Invoke<T>, Work = pinned };
            AtenTensor.Check(torch_parallel_for(begin, end, Math.Max(grain, 1), &Enter, &call), "run a kernel on several threads");
        }
    }

    private static void Invoke<T>(void* work, long begin, long end)
        where T : unmanaged, IRangeWork => Unsafe.AsRef<T>(work).Run(begin, end);

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void Enter(long begin, long end, void* context)
    {
        var call = (Call*)context;
        call->Function(call->Work, begin, end);
    }

    [LibraryImport(Library)]
    private static partial int torch_parallel_for(long begin, long end, long grain, delegate* unmanaged[Cdecl]<long, long, void*, void> function, void* context);

    private struct Call
    {
        public delegate*<void*, long, long, void> Function;
        public void* Work;
    }
}

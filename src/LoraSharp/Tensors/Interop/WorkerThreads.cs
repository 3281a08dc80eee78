using static TorchSharp.torch;

namespace LoraSharp.Tensors.Interop;

/// <summary>
/// The worker threads of OpenMP, of which every thread that ever ran an operator on several cores has a team of its own.
/// </summary>
public static unsafe class WorkerThreads
{
    // omp_pause_soft (OpenMP 5.0, section 3.2.44): let threads go, keep settings.
    private const int Soft = 1;

    /// <summary>
    /// Lets the calling thread's team go; its next operator makes another. A thread that hands a model over to another
    /// calls this: while there are more OpenMP threads than cores, even idle ones, libgomp's threads no longer spin at the
    /// end of an operator but sleep at once, and each of a step's hundreds of products pays for waking them. On two cores
    /// that made serving a GGUF file half as fast as decoding it (docs/benchmarks/gguf.md). Nothing happens where libtorch
    /// comes with another runtime.
    /// </summary>
    public static void Release()
    {
        nint entry = NativeRuntime.EnsureLoaded().Export("torch_cpu", "omp_pause_resource_all");
        if (entry != 0 && get_num_threads() > 1)
        {
            // Fails within a parallel region only, where nothing calls this.
            _ = ((delegate* unmanaged[Cdecl]<int, int>)entry)(Soft);
        }
    }
}

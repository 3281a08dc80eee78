using System.Runtime.InteropServices;
using LoraSharp.Formats;

namespace LoraSharp.Tensors.Cuda;

/// <summary>A stream of our own that libtorch's operators run on while this object is in use.</summary>
public sealed unsafe class CudaStreamScope : IDisposable
{
    private readonly nint _guard;
    private readonly bool _owned;

    /// <summary>Makes a new stream current on this thread.</summary>
    public CudaStreamScope(int device)
        : this(device, NewStream(), owned: true)
    {
    }

    private CudaStreamScope(int device, nint stream, bool owned)
    {
        Stream = stream;
        _owned = owned;
        nint entry = NativeRuntime.EnsureLoaded().Export("torch_cuda", "aoti_torch_create_cuda_stream_guard");
        nint guard = 0;
        if (entry == 0 || ((delegate* unmanaged<nint, int, nint*, int>)entry)(stream, device, &guard) != 0)
        {
            throw new LoraSharpException("libtorch_cuda has no aoti_torch_create_cuda_stream_guard: this PyTorch cannot run on a stream of our own.");
        }

        _guard = guard;
    }

    /// <summary>The stream (CUstream).</summary>
    public nint Stream { get; }

    /// <summary>Waits for everything on the stream.</summary>
    public void Synchronize() => CudaDriver.Check(CudaDriver.cuStreamSynchronize(Stream), "finish the work on a stream");

    /// <summary>Makes the former stream current again.</summary>
    public void Dispose()
    {
        nint entry = NativeRuntime.EnsureLoaded().Export("torch_cuda", "aoti_torch_delete_cuda_stream_guard");
        _ = ((delegate* unmanaged<nint, int>)entry)(_guard);
        if (_owned)
        {
            _ = CudaDriver.cuStreamDestroy(Stream);
        }
    }

    private static nint NewStream()
    {
        // 1: not synchronised with the default stream.
        CudaDriver.Check(CudaDriver.cuStreamCreate(out nint stream, 1), "make a stream");
        return stream;
    }
}

/// <summary>
/// A captured sequence of GPU work, replayed without the cost of launching it piece by piece. Tensors made while
/// capturing live in the graph's own memory pool; those read or written by a replay must be kept alive and in place.
/// </summary>
/// <remarks>
/// libtorch has no C interface for graphs: the exported C++ members of <c>at::cuda::CUDAGraph</c> are called. They are
/// not a stable ABI, so <see cref="IsAvailable"/> is asked first, and a C++ exception in one of them ends the process.
/// </remarks>
public sealed unsafe class CudaGraph : IDisposable
{
    private const int ObjectBytes = 8192;
    private const int ThreadLocalCapture = 1;
    private static readonly string[] Symbols =
    [
        "_ZN2at4cuda9CUDAGraphC1Eb",
        "_ZN2at4cuda9CUDAGraphD1Ev",
        "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode",
        "_ZN2at4cuda9CUDAGraph11capture_endEv",
        "_ZN2at4cuda9CUDAGraph6replayEv",
    ];

    private readonly nint[] _entries;
    private void* _object;

    private CudaGraph(nint[] entries)
    {
        _entries = entries;
        _object = NativeMemory.AlignedAlloc(ObjectBytes, 64);
        NativeMemory.Clear(_object, ObjectBytes);
        ((delegate* unmanaged<void*, byte, void>)entries[0])(_object, 0);
    }

    /// <summary>Whether the loaded libtorch exports what is needed.</summary>
    public static bool IsAvailable => Symbols.All(s => NativeRuntime.EnsureLoaded().Export("torch_cuda", s) != 0);

    /// <summary>Names of the symbols that are missing, for <c>lora doctor</c>.</summary>
    public static IReadOnlyList<string> MissingSymbols => [.. Symbols.Where(s => NativeRuntime.EnsureLoaded().Export("torch_cuda", s) == 0)];

    /// <summary>Captures what <paramref name="work"/> launches on a stream.</summary>
    /// <param name="work">Has run before on this stream, so that libraries have set themselves up; must not wait for the device.</param>
    /// <param name="stream">The current one.</param>
    /// <exception cref="LoraSharpException">This libtorch has no graphs, or the work did something that cannot be captured.</exception>
    public static CudaGraph Capture(Action work, CudaStreamScope stream)
    {
        ArgumentNullException.ThrowIfNull(work);
        ArgumentNullException.ThrowIfNull(stream);
        nint[] entries = [.. Symbols.Select(s => NativeRuntime.EnsureLoaded().Export("torch_cuda", s))];
        if (entries.Contains(0))
        {
            throw new LoraSharpException($"This libtorch_cuda exports no CUDA graphs ({string.Join(", ", MissingSymbols)}).");
        }

        // A finaliser that freed device memory during the capture would break it.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var graph = new CudaGraph(entries);
        ((delegate* unmanaged<void*, ulong, ulong, int, void>)entries[2])(graph._object, 0, 0, ThreadLocalCapture);
        try
        {
            work();
        }
        catch (Exception e)
        {
            // Ending a broken capture through libtorch would be a C++ exception, which ends the process without this one's words.
            _ = CudaDriver.cuStreamEndCapture(stream.Stream, out _);
            throw new LoraSharpException($"A CUDA graph could not be captured; the GPU cannot be used any more by this process. {e.Message}", e);
        }

        ((delegate* unmanaged<void*, void>)entries[3])(graph._object);
        return graph;
    }

    /// <summary>Launches the captured work on the current stream.</summary>
    public void Replay() => ((delegate* unmanaged<void*, void>)_entries[4])(_object);

    /// <summary>Frees the graph and its memory pool.</summary>
    public void Dispose()
    {
        if (_object is not null)
        {
            ((delegate* unmanaged<void*, void>)_entries[1])(_object);
            NativeMemory.AlignedFree(_object);
            _object = null;
        }
    }
}

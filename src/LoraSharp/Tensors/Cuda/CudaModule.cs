using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;
using LoraSharp.Formats;
using static TorchSharp.torch;

namespace LoraSharp.Tensors.Cuda;

/// <summary>
/// Kernels of our own, compiled at run time from CUDA C++ kept as an embedded resource (NVRTC ships with libtorch-cuda,
/// so a user needs no toolkit), and launched on libtorch's current stream.
/// </summary>
public sealed unsafe partial class CudaModule : IDisposable
{
    private readonly ConcurrentDictionary<string, (nint Function, int SharedBytes)> _functions = new();
    private readonly int _device;
    private nint _module;

    private CudaModule(nint module, int device)
    {
        _module = module;
        _device = device;
    }

    /// <summary>Compiles source text for a device that libtorch has already been used on.</summary>
    /// <param name="name">Name of the source, for the compiler's log.</param>
    /// <param name="source">CUDA C++ without includes; kernels are <c>extern "C"</c>.</param>
    /// <param name="device">Index of the device.</param>
    /// <param name="defines">Macros given to the compiler.</param>
    /// <exception cref="LoraSharpException">NVRTC is missing, or the source does not compile: the message holds the compiler's log.</exception>
    public static CudaModule Compile(string name, string source, int device, IReadOnlyDictionary<string, string>? defines = null)
    {
        CudaDriver.Check(CudaDriver.cuDeviceGetAttribute(out int major, 75, device), "read the compute capability");
        CudaDriver.Check(CudaDriver.cuDeviceGetAttribute(out int minor, 76, device), "read the compute capability");
        byte[] image = Nvrtc.Compile(name, source, $"sm_{major}{minor}{(major >= 9 ? "a" : "")}", defines);
        fixed (byte* data = image)
        {
            CudaDriver.Check(CudaDriver.cuModuleLoadData(out nint module, data), $"load the kernels of {name}");
            return new CudaModule(module, device);
        }
    }

    /// <summary>Whether kernels can be compiled and launched here at all: a driver, NVRTC, and libtorch's stream.</summary>
    public static bool IsAvailable => NativeRuntime.EnsureLoaded().CanCompileKernels;

    /// <summary>The kernels of an embedded source, compiled once a process and device; never disposed.</summary>
    /// <param name="name">Name of the source without its extension.</param>
    /// <param name="device">Index of the device; negative for the first.</param>
    public static CudaModule Shared(string name, int device) =>
        NativeRuntime.EnsureLoaded().Kernels.GetOrAdd((name, Math.Max(device, 0)), key => new Lazy<CudaModule>(() => Compile(key.Name + ".cu", Source(key.Name), key.Device))).Value;

    /// <summary>Reads the source of an embedded resource <c>NAME.cu</c> of this assembly, with the resources that it includes.</summary>
    public static string Source(string name)
    {
        string text = Resource(name);
        return text.Replace("#include \"bf16_math.cu\"", Resource("bf16_math"), StringComparison.Ordinal);
    }

    private static string Resource(string name)
    {
        using Stream stream = typeof(CudaModule).Assembly.GetManifestResourceStream(name + ".cu")
            ?? throw new LoraSharpException($"The kernel source {name}.cu is not in the assembly.");
        using var reader = new StreamReader(stream, Encoding.UTF8);
        return reader.ReadToEnd();
    }

    /// <summary>libtorch's current stream of a device.</summary>
    public static nint CurrentStream(int device)
    {
        nint entry = NativeRuntime.EnsureLoaded().Export("torch_cuda", "aoti_torch_get_current_cuda_stream");
        nint stream = 0;
        if (entry == 0 || ((delegate* unmanaged<int, nint*, int>)entry)(device, &stream) != 0)
        {
            throw new LoraSharpException("libtorch_cuda has no aoti_torch_get_current_cuda_stream: kernels cannot be launched with this PyTorch.");
        }

        return stream;
    }

    /// <summary>Launches a kernel.</summary>
    /// <param name="kernel">Its name.</param>
    /// <param name="grid">Blocks in x, y, z.</param>
    /// <param name="threads">Threads a block.</param>
    /// <param name="sharedBytes">Dynamic shared memory.</param>
    /// <param name="arguments">In the kernel's order.</param>
    public void Launch(string kernel, (long X, long Y, long Z) grid, int threads, int sharedBytes, params ReadOnlySpan<KernelArgument> arguments) =>
        LaunchOn(CurrentStream(_device), kernel, grid, threads, sharedBytes, arguments);

    // On a stream (CUstream) that need not be libtorch's.
    internal void LaunchOn(nint stream, string kernel, (long X, long Y, long Z) grid, int threads, int sharedBytes, params ReadOnlySpan<KernelArgument> arguments)
    {
        nint function = Function(kernel, sharedBytes);
        void** pointers = stackalloc void*[arguments.Length];
        fixed (KernelArgument* values = arguments)
        {
            for (int i = 0; i < arguments.Length; i++)
            {
                pointers[i] = values + i;
            }

            CudaDriver.Check(
                CudaDriver.cuLaunchKernel(function, (uint)grid.X, (uint)grid.Y, (uint)grid.Z, (uint)threads, 1, 1, (uint)sharedBytes, stream, pointers, null),
                $"launch the kernel {kernel}");
        }
    }

    private nint Function(string kernel, int sharedBytes)
    {
        // What a block gets without asking for more.
        const int Granted = 48 * 1024;
        if (_functions.TryGetValue(kernel, out (nint Function, int SharedBytes) known) && sharedBytes <= known.SharedBytes)
        {
            return known.Function;
        }

        fixed (byte* name = Encoding.ASCII.GetBytes(kernel + "\0"))
        {
            CudaDriver.Check(CudaDriver.cuModuleGetFunction(out nint function, _module, name), $"find the kernel {kernel}");
            if (sharedBytes > Granted)
            {
                CudaDriver.Check(CudaDriver.cuFuncSetAttribute(function, 8, sharedBytes), $"raise the shared memory of {kernel}");
            }

            _functions[kernel] = (function, Math.Max(sharedBytes, Granted));
            return function;
        }
    }

    /// <summary>Unloads the kernels.</summary>
    public void Dispose()
    {
        if (_module != 0)
        {
            _ = CudaDriver.cuModuleUnload(_module);
            _module = 0;
        }
    }
}

/// <summary>One argument of a kernel: a tensor's address, an integer or a float, as 8 bytes.</summary>
[StructLayout(LayoutKind.Explicit, Size = 8)]
public readonly struct KernelArgument
{
    [FieldOffset(0)]
    private readonly nint _address;

    [FieldOffset(0)]
    private readonly int _integer;

    [FieldOffset(0)]
    private readonly long _long;

    [FieldOffset(0)]
    private readonly float _single;

    private KernelArgument(nint value) => _address = value;

    private KernelArgument(int value) => _integer = value;

    private KernelArgument(long value) => _long = value;

    private KernelArgument(float value) => _single = value;

    /// <summary>The address of the tensor's first element.</summary>
    public static implicit operator KernelArgument(Tensor tensor) => new(Interop.AtenTensor.DataPointer(tensor));

    /// <summary>An address.</summary>
    public static implicit operator KernelArgument(nint value) => new(value);

    /// <summary>A 32-bit integer.</summary>
    public static implicit operator KernelArgument(int value) => new(value);

    /// <summary>A 64-bit integer.</summary>
    public static implicit operator KernelArgument(long value) => new(value);

    /// <summary>A 32-bit float.</summary>
    public static implicit operator KernelArgument(float value) => new(value);
}

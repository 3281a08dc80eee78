using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using LoraSharp.Formats;
using LoraSharp.Tensors.Cuda;
using LoraSharp.Tensors.Interop;
using TorchSharp;

namespace LoraSharp.Tensors;

/// <summary>
/// The native libraries below TorchSharp: which were loaded and from where. Call <see cref="EnsureLoaded"/> before the
/// first tensor; every entry point of LoraSharp does.
/// </summary>
/// <remarks>
/// <para>By default libtorch comes with the application (the libtorch-cpu packages). With the environment variable
/// <c>LORASHARP_TORCH=/path/to/torch/lib</c> an installed PyTorch is used instead, which is how a GPU is reached
/// without another package.</para>
/// <para>The package's libLibTorchSharp.so asks for GLIBCXX_3.4.32 on behalf of one symbol that nothing refers to, so it
/// does not load on Debian 12, Ubuntu 22.04 or RHEL 9. There, and only there, <see cref="ElfVersionNeed"/> makes that
/// requirement weak in the application's own copy.</para>
/// </remarks>
public sealed class NativeRuntime
{
    /// <summary>Environment variable that names the <c>torch/lib</c> folder of an installed PyTorch.</summary>
    public const string TorchFolderVariable = "LORASHARP_TORCH";

    private const string Shim = "LibTorchSharp";
    private static readonly Lazy<NativeRuntime> Loaded = new(Load);
    private readonly Dictionary<string, nint> _handles;
    private readonly Lazy<bool> _canCompile;

    private NativeRuntime(string torchFolder, bool hasCuda, bool mended, Dictionary<string, nint> handles)
    {
        TorchFolder = torchFolder;
        HasCudaLibraries = hasCuda;
        WasMended = mended;
        _handles = handles;
        _canCompile = new Lazy<bool>(() => HasCudaLibraries && Nvrtc.Find() is not null && Export("torch_cuda", "aoti_torch_get_current_cuda_stream") != 0);
    }

    /// <summary>Compiled kernels by source and device: machine code, loaded like a library and kept like one.</summary>
    internal ConcurrentDictionary<(string Name, int Device), Lazy<CudaModule>> Kernels { get; } = new();

    /// <summary>Whether own kernels can be compiled and launched.</summary>
    internal bool CanCompileKernels => _canCompile.Value;

    /// <summary>The folder that libtorch was loaded from.</summary>
    public string TorchFolder { get; }

    /// <summary>True when libtorch_cuda was found there and loaded.</summary>
    public bool HasCudaLibraries { get; }

    /// <summary>True when libLibTorchSharp.so had to be mended for this machine's libstdc++.</summary>
    public bool WasMended { get; }

    /// <summary>Loads the native libraries once a process; later calls return the same.</summary>
    /// <exception cref="LoraSharpException">A library is missing or cannot be loaded.</exception>
    public static NativeRuntime EnsureLoaded() => Loaded.Value;

    /// <summary>Address of an exported symbol of libtorch, or 0: callers fall back.</summary>
    /// <param name="library">Name without prefix and extension: <c>torch_cpu</c>, <c>torch_cuda</c>, <c>c10_cuda</c>.</param>
    /// <param name="symbol">The exported, possibly mangled name.</param>
    public nint Export(string library, string symbol) =>
        _handles.TryGetValue(library, out nint handle) && NativeLibrary.TryGetExport(handle, symbol, out nint address) ? address : 0;

    private static NativeRuntime Load()
    {
        string[] own = OwnFolders();
        string? installed = Environment.GetEnvironmentVariable(TorchFolderVariable);
        string folder = string.IsNullOrEmpty(installed)
            ? own.FirstOrDefault(f => File.Exists(Path.Combine(f, FileName("torch_cpu")))) ?? AppContext.BaseDirectory
            : installed;
        if (!File.Exists(Path.Combine(folder, FileName("torch_cpu"))))
        {
            throw new LoraSharpException(
                $"{Path.Combine(folder, FileName("torch_cpu"))}: not found. " + (string.IsNullOrEmpty(installed)
                    ? "Reference the package libtorch-cpu of this platform, or set LORASHARP_TORCH to the torch/lib folder of an installed PyTorch."
                    : $"{TorchFolderVariable} must name the torch/lib folder of an installed PyTorch."));
        }

        OpenMpSpin.Limit();
        if (!string.IsNullOrEmpty(installed))
        {
            LoadSiblings(folder);
        }

        Dictionary<string, nint> handles = [];
        foreach (string name in (string[])["c10", "torch_cpu", "c10_cuda", "torch_cuda", "torch"])
        {
            string path = Path.Combine(folder, FileName(name));
            if (File.Exists(path))
            {
                handles[name] = LoadOrThrow(path);
            }
        }

        string shim = own.Select(f => Path.Combine(f, FileName(Shim))).FirstOrDefault(File.Exists)
            ?? throw new LoraSharpException($"{FileName(Shim)}: not found beside the application in {string.Join(" or ", own)}. Reference the package TorchSharp.");
        bool mended = LoadShim(shim, handles);
        NativeLibrary.SetDllImportResolver(typeof(NativeRuntime).Assembly, (name, _, _) => name == "cuda" ? LoadDriver() : handles.GetValueOrDefault(name));
        try
        {
            NativeLibrary.SetDllImportResolver(typeof(torch).Assembly, (name, _, _) => handles.GetValueOrDefault(name));
        }
        catch (InvalidOperationException)
        {
            // Someone else resolves for TorchSharp already; what was loaded above is found by its name.
        }

        return new NativeRuntime(folder, handles.ContainsKey("torch_cuda"), mended, handles);
    }

    /// <summary>The driver's library belongs to the machine, not to libtorch; 0 where there is none.</summary>
    private static nint LoadDriver() =>
        NativeLibrary.TryLoad(OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1", out nint handle) ? handle : 0;

    private static bool LoadShim(string path, Dictionary<string, nint> handles)
    {
        if (NativeLibrary.TryLoad(path, out nint handle))
        {
            handles[Shim] = handle;
            return false;
        }

        if (!OperatingSystem.IsLinux())
        {
            handles[Shim] = LoadOrThrow(path);
            return false;
        }

        byte[] image = File.ReadAllBytes(path);
        if (!ElfVersionNeed.Weaken(image, "GLIBCXX_3.4.32"))
        {
            handles[Shim] = LoadOrThrow(path);
            return false;
        }

        handles[Shim] = LoadOrThrow(WriteMended(path, image));
        return true;
    }

    /// <summary>Replaces the file in the build output, or, where that is read-only, puts the copy into the temporary folder.</summary>
    private static string WriteMended(string path, byte[] image)
    {
        try
        {
            AtomicFile.Write(path, stream => stream.Write(image));
            return path;
        }
        catch (Exception error) when (error is UnauthorizedAccessException or LoraSharpException)
        {
            string copy = Path.Combine(Directory.CreateTempSubdirectory("lorasharp-").FullName, Path.GetFileName(path));
            File.WriteAllBytes(copy, image);
            return copy;
        }
    }

    private static nint LoadOrThrow(string path)
    {
        try
        {
            return NativeLibrary.Load(path);
        }
        catch (DllNotFoundException error)
        {
            throw new LoraSharpException($"{path}: the native library cannot be loaded. {error.Message}", error);
        }
    }

    /// <summary>PyTorch's wheels keep CUDA's libraries in <c>nvidia/*/lib</c> beside <c>torch</c>; loaded by full path they are found.</summary>
    private static void LoadSiblings(string torchLib)
    {
        string nvidia = Path.GetFullPath(Path.Combine(torchLib, "..", "..", "nvidia"));
        if (!Directory.Exists(nvidia))
        {
            return;
        }

        List<string> pending = [.. Directory.EnumerateFiles(nvidia, "lib*.so*", SearchOption.AllDirectories)];
        for (int before = int.MaxValue; pending.Count > 0 && pending.Count < before;)
        {
            // They depend on each other in an order of their own: load what can be loaded until nothing more can.
            before = pending.Count;
            pending.RemoveAll(path => NativeLibrary.TryLoad(path, out _));
        }
    }

    private static string[] OwnFolders()
    {
        string home = AppContext.BaseDirectory;
        string system = OperatingSystem.IsWindows() ? "win" : OperatingSystem.IsMacOS() ? "osx" : "linux";
        string processor = RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? "arm64" : "x64";
        return [Path.Combine(home, "runtimes", $"{system}-{processor}", "native"), home];
    }

    private static string FileName(string name) =>
        OperatingSystem.IsWindows() ? name + ".dll" : OperatingSystem.IsMacOS() ? $"lib{name}.dylib" : $"lib{name}.so";
}

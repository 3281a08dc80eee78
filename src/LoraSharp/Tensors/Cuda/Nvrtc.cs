using System.Runtime.InteropServices;
using System.Text;
using LoraSharp.Formats;

namespace LoraSharp.Tensors.Cuda;

/// <summary>NVIDIA's run-time compiler.</summary>
internal static unsafe class Nvrtc
{
    /// <summary>Whether the library can be loaded, and where from.</summary>
    public static string? Find() => TryLoad(out string found, out _) ? found : null;

    /// <summary>Compiles to machine code of one architecture, e.g. <c>sm_90a</c>.</summary>
    public static byte[] Compile(string name, string source, string architecture, IReadOnlyDictionary<string, string>? defines)
    {
        if (!TryLoad(out _, out nint library))
        {
            throw new LoraSharpException("libnvrtc was not found beside libtorch_cuda. It comes with PyTorch's CUDA wheels (nvidia-cuda-nvrtc) and with TorchSharp-cuda; own kernels need it.");
        }

        var create = (delegate* unmanaged<nint*, byte*, byte*, int, nint, nint, int>)Export(library, "nvrtcCreateProgram");
        var compile = (delegate* unmanaged<nint, int, byte**, int>)Export(library, "nvrtcCompileProgram");
        var logSize = (delegate* unmanaged<nint, nuint*, int>)Export(library, "nvrtcGetProgramLogSize");
        var log = (delegate* unmanaged<nint, byte*, int>)Export(library, "nvrtcGetProgramLog");
        var cubinSize = (delegate* unmanaged<nint, nuint*, int>)Export(library, "nvrtcGetCUBINSize");
        var cubin = (delegate* unmanaged<nint, byte*, int>)Export(library, "nvrtcGetCUBIN");
        var destroy = (delegate* unmanaged<nint*, int>)Export(library, "nvrtcDestroyProgram");

        nint program = 0;
        fixed (byte* text = Encoding.UTF8.GetBytes(source + "\0"), title = Encoding.UTF8.GetBytes(name + "\0"))
        {
            if (create(&program, text, title, 0, 0, 0) is int created and not 0)
            {
                throw new LoraSharpException($"NVRTC could not start on {name} (code {created}).");
            }
        }

        string[] options = [$"--gpu-architecture={architecture}", "--std=c++17", "--use_fast_math", .. (defines ?? new Dictionary<string, string>()).Select(d => $"-D{d.Key}={d.Value}")];
        nint[] strings = [.. options.Select(Marshal.StringToCoTaskMemUTF8)];
        try
        {
            int code;
            fixed (nint* first = strings)
            {
                code = compile(program, strings.Length, (byte**)first);
            }

            if (code != 0)
            {
                nuint size;
                _ = logSize(program, &size);
                byte[] text = new byte[size];
                fixed (byte* buffer = text)
                {
                    _ = log(program, buffer);
                }

                throw new LoraSharpException($"The kernels of {name} do not compile for {architecture}:\n{Encoding.UTF8.GetString(text).TrimEnd('\0', '\n')}");
            }

            nuint length;
            _ = cubinSize(program, &length);
            byte[] image = new byte[length];
            fixed (byte* buffer = image)
            {
                _ = cubin(program, buffer);
            }

            return image;
        }
        finally
        {
            foreach (nint pointer in strings)
            {
                Marshal.FreeCoTaskMem(pointer);
            }

            _ = destroy(&program);
        }
    }

    private static bool TryLoad(out string found, out nint library)
    {
        // Loaded by full path beside libtorch it is found by its soname.
        foreach (string name in (string[])["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll"])
        {
            if (NativeLibrary.TryLoad(name, out library))
            {
                found = name;
                return true;
            }
        }

        found = "";
        library = 0;
        return false;
    }

    private static nint Export(nint library, string name) => NativeLibrary.GetExport(library, name);
}

using System.Globalization;
using System.Text;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Cuda;

namespace LoraSharp;

/// <summary>What there is of NVIDIA's driver, devices, and the parts of libtorch that own kernels need.</summary>
/// <param name="Driver">Version of CUDA the driver serves; null without a driver.</param>
/// <param name="Devices">A line a device.</param>
/// <param name="MissingGraphSymbols">What libtorch_cuda lacks for CUDA graphs; empty when it has all.</param>
/// <param name="Compiler">NVRTC's library; null without.</param>
public sealed record GpuReport(string? Driver, IReadOnlyList<string> Devices, IReadOnlyList<string> MissingGraphSymbols, string? Compiler)
{
    /// <summary>Looks; never fails.</summary>
    public static unsafe GpuReport Read(NativeRuntime runtime)
    {
        ArgumentNullException.ThrowIfNull(runtime);
        try
        {
            if (CudaDriver.cuInit(0) != 0 || CudaDriver.cuDriverGetVersion(out int version) != 0 || CudaDriver.cuDeviceGetCount(out int count) != 0)
            {
                return new GpuReport(null, [], [], null);
            }

            var devices = new List<string>();
            byte* name = stackalloc byte[128];
            for (int i = 0; i < count; i++)
            {
                _ = CudaDriver.cuDeviceGetName(name, 128, i);
                _ = CudaDriver.cuDeviceTotalMem(out nuint bytes, i);
                string text = Encoding.UTF8.GetString(name, 128);
                devices.Add(string.Create(CultureInfo.InvariantCulture, $"{text[..text.IndexOf('\0')]}, {bytes / (double)(1 << 30):0.0} GiB"));
            }

            return new GpuReport(
                $"{version / 1000}.{version % 1000 / 10}",
                devices,
                runtime.HasCudaLibraries ? CudaGraph.MissingSymbols : [],
                Nvrtc.Find());
        }
        catch (DllNotFoundException)
        {
            return new GpuReport(null, [], [], null);
        }
    }
}

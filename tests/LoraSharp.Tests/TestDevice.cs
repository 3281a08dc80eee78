using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests;

/// <summary>Where the tests against the references compute: the CPU, or what the environment names (<c>benchmarks/gpu/run.sh</c>).</summary>
internal static class TestDevice
{
    /// <summary><c>cuda</c> runs them on a GPU.</summary>
    public const string Variable = "LORASHARP_TEST_DEVICE";

    /// <summary>The device.</summary>
    public static Device Current
    {
        get
        {
            NativeRuntime.EnsureLoaded();
            return new Device(Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } named ? named : "cpu");
        }
    }

    /// <summary>A GPU; the test is skipped where the environment names none.</summary>
    public static Device GpuOrSkip()
    {
        Device device = Current;
        Assert.SkipUnless(device.type == TorchSharp.DeviceType.CUDA, $"needs a GPU: {Variable}=cuda");
        return device;
    }
}

using System.Runtime.InteropServices;
using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;

namespace LoraSharp.Tests;

public sealed class OpenMpSpinTests
{
    private delegate nint GetEnv([MarshalAs(UnmanagedType.LPUTF8Str)] string name);

    [Theory]
    [InlineData("GOMP_SPINCOUNT")]
    [InlineData("OMP_WAIT_POLICY")]
    public void WhatTheUserSetStays(string variable)
    {
        Assert.NotNull(OpenMpSpin.RoundsFor(_ => null));
        Assert.Null(OpenMpSpin.RoundsFor(name => name == variable ? "1" : null));
    }

    [Fact]
    public void NativeCodeSeesIt()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "libgomp is Linux's");
        NativeRuntime.EnsureLoaded();
        nint libc = NativeLibrary.Load("libc");
        var getenv = Marshal.GetDelegateForFunctionPointer<GetEnv>(NativeLibrary.GetExport(libc, "getenv"));
        string? expected = OpenMpSpin.RoundsFor(Environment.GetEnvironmentVariable) ?? Environment.GetEnvironmentVariable("GOMP_SPINCOUNT");
        Assert.Equal(expected, Marshal.PtrToStringUTF8(getenv("GOMP_SPINCOUNT")));
    }
}

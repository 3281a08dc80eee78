using System.Runtime.CompilerServices;
using LoraSharp.Tensors;

namespace LoraSharp.Tests;

/// <summary>
/// Loads the native libraries before any test: TorchSharp looks for them once a process, and a test that touched it first
/// would make every other one fail.
/// </summary>
internal static class NativeRuntimeFirst
{
    [ModuleInitializer]
    internal static void Load() => NativeRuntime.EnsureLoaded();
}

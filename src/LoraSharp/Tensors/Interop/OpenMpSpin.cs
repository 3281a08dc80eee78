using System.Runtime.InteropServices;

namespace LoraSharp.Tensors.Interop;

/// <summary>
/// How long libgomp's threads spin at the end of an operator before they sleep. The library's own 300,000 rounds are
/// milliseconds: while another process keeps a core, the thread that waits burns its share of the time on the very core
/// that its neighbour needs to come to the barrier: a hundredth of the speed (docs/benchmarks/openmp.md).
/// </summary>
internal static partial class OpenMpSpin
{
    private const string SpinCount = "GOMP_SPINCOUNT";
    private const string WaitPolicy = "OMP_WAIT_POLICY";

    // The least at which an idle machine serves no slower: the gap between two operators is shorter, most of the time.
    private const string Rounds = "3000";

    /// <summary>Sets it for this process; called before libtorch is loaded, because libgomp reads its variables when it is.</summary>
    public static void Limit()
    {
        if (!OperatingSystem.IsLinux() || RoundsFor(Environment.GetEnvironmentVariable) is not { } rounds)
        {
            return;
        }

        try
        {
            // .NET's own SetEnvironmentVariable changes a copy that native code never sees.
            _ = setenv(SpinCount, rounds, 0);
        }
        catch (Exception error) when (error is EntryPointNotFoundException or DllNotFoundException)
        {
            // No such C library: the runtime's own patience stays.
        }
    }

    /// <summary>What to set; null where the user has settled how threads wait.</summary>
    internal static string? RoundsFor(Func<string, string?> environment) =>
        environment(SpinCount) is null && environment(WaitPolicy) is null ? Rounds : null;

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int setenv(string name, string value, int overwrite);
}

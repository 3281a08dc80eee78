using LoraSharp.Tensors;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Kernels;

public sealed class WorkerThreadsTests
{
    [Fact]
    public void A_thread_that_lets_its_team_go_leaves_no_threads_behind()
    {
        NativeRuntime.EnsureLoaded();
        Assert.SkipUnless(OperatingSystem.IsLinux() && get_num_threads() > 1, "Counts threads in /proc, of an operator that runs on several.");
        HashSet<string> before = [], during = [], after = [];
        var thread = new Thread(() =>
        {
            before = Threads();
            Multiply();
            during = [.. Threads().Except(before)];
            WorkerThreads.Release();

            // A thread that was let go takes a moment to end.
            for (int i = 0; i < 200 && (after = [.. Threads().Intersect(during)]).Count > 0; i++)
            {
                Thread.Sleep(10);
            }

            Multiply();
        });
        thread.Start();
        thread.Join();
        Assert.NotEmpty(during);
        Assert.True(after.Count <= during.Count - (get_num_threads() - 1), $"{after.Count} of {during.Count} threads are left.");
    }

    private static void Multiply()
    {
        using Tensor a = ones(512, 512);
        using Tensor b = a.matmul(a);
        Assert.Equal(512f, b[3, 5].item<float>());
    }

    private static HashSet<string> Threads() => [.. Directory.GetDirectories("/proc/self/task")];
}

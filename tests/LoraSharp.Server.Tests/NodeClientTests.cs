using System.ComponentModel;
using System.Diagnostics;

namespace LoraSharp.Server.Tests;

/// <summary>npm's <c>openai</c> against the running server (tests/openai-node). Skipped where Node.js or the package cannot be had.</summary>
public sealed class NodeClientTests
{
    private static readonly string[] Checks = ["chat", "streaming", "completions", "tools", "models", "errors", "cancellation", "hundred", "embeddings"];

    [Fact]
    public async Task OpenAis_client_for_node_finds_what_it_expects()
    {
        string folder = await InstalledAsync();
        string model = Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");
        await using RunningServer server = await RunningServer.StartAsync(model, options: new ServerOptions { ModelName = "tiny", ApiKeys = ["secret"] });

        (int code, string output) = await RunAsync("node", folder, TimeSpan.FromMinutes(3), "client.mjs", new Uri(server.Client.BaseAddress!, "v1").ToString(), "secret", "tiny");

        Assert.True(code == 0, output);
        Assert.All(Checks, check => Assert.Contains($"ok {check}\n", output));
        for (int i = 0; i < 200 && server.Engine.Status.Running > 0; i++)
        {
            await Task.Delay(10, TestContext.Current.CancellationToken);
        }

        Assert.Equal(0, server.Engine.Status.Running);
    }

    private static async Task<string> InstalledAsync()
    {
        string source = Path.Combine(Fixtures.Root(), "tests", "openai-node");
        string folder = Path.Combine(AppContext.BaseDirectory, "openai-node");
        Directory.CreateDirectory(folder);
        foreach (string file in (string[])["package.json", "client.mjs"])
        {
            File.Copy(Path.Combine(source, file), Path.Combine(folder, file), overwrite: true);
        }

        if (!Directory.Exists(Path.Combine(folder, "node_modules", "openai")))
        {
            (int code, string output) = await RunAsync("npm", folder, TimeSpan.FromMinutes(1), "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock");
            Assert.SkipUnless(code == 0, $"npm could not install openai: {output}");
        }

        return folder;
    }

    private static async Task<(int Code, string Output)> RunAsync(string command, string folder, TimeSpan limit, params string[] arguments)
    {
        var start = new ProcessStartInfo(OperatingSystem.IsWindows() && command == "npm" ? "npm.cmd" : command, arguments) { WorkingDirectory = folder, RedirectStandardOutput = true, RedirectStandardError = true };
        Process? process;
        try
        {
            process = Process.Start(start);
        }
        catch (Win32Exception error)
        {
            Assert.Skip($"needs {command}: {error.Message}");
            throw;
        }

        using (process)
        {
            using var time = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
            time.CancelAfter(limit);
            Task<string> output = process!.StandardOutput.ReadToEndAsync(time.Token);
            Task<string> error = process.StandardError.ReadToEndAsync(time.Token);
            try
            {
                await process.WaitForExitAsync(time.Token);
                return (process.ExitCode, await output + await error);
            }
            catch (OperationCanceledException)
            {
                process.Kill(entireProcessTree: true);
                return (-1, $"{command} took longer than {limit.TotalSeconds} s");
            }
        }
    }
}

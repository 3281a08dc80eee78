using System.Diagnostics;
using System.Net;
using System.Text;

namespace LoraSharp.Cli.Tests;

/// <summary><c>lora serve</c> as its user meets it: what is wrong is told before anything listens, and it stops in good order.</summary>
public sealed class ServeCommandTests
{
    private static string Llama => Fixtures.Path("models/llama");

    [Theory]
    [InlineData("there is no such", "--adapter", "a=/no/such/folder")]
    [InlineData("expected NAME=PATH", "--adapter", "a")]
    [InlineData("given twice", "--adapter", "a=x", "a=y")]
    [InlineData("--pin 'x'", "--pin", "x")]
    [InlineData("there is no such file", "--keys", "/no/such/keys.yaml")]
    [InlineData("--host 'nowhere'", "--host", "nowhere")]
    [InlineData("--port 99999", "--port", "99999")]
    [InlineData("--kv-memory 'much'", "--kv-memory", "much")]
    [InlineData("--max-batch 0", "--max-batch", "0")]
    [InlineData("an API key is empty", "--api-key", "with blank")]
    [InlineData("the admin key is an API key too", "--api-key", "same", "--admin-key", "same")]
    [InlineData("there is no such folder", "--adapter-folder", "/no/such/folder")]
    [InlineData("origin 'example'", "--allow-origin", "example")]
    [InlineData("there is no such folder", "--register", "/no/such/folder")]
    public async Task What_is_wrong_is_told_at_the_start(string message, params string[] flags)
    {
        CommandRun run = await CommandRun.OfAsync([.. (string[])["serve", "--model", Llama, .. flags.Contains("--port") ? [] : (string[])["--port", "0"]], .. flags]);

        Assert.Equal(1, run.ExitCode);
        Assert.Contains(message, run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("Serving", run.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task An_adapter_for_another_base_is_refused_with_the_mismatch()
    {
        CommandRun run = await CommandRun.OfAsync("serve", "--model", Llama, "--adapter", "a=" + Fixtures.Path("mixed_batch/a"), "b=" + Fixtures.Path("adapters/gpt2_conv1d"), "--port", "0");

        Assert.Equal(1, run.ExitCode);
        Assert.Contains("gpt2_conv1d", run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("Serving", run.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Sigterm_lets_a_running_answer_end()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux() || OperatingSystem.IsMacOS(), "sends SIGTERM");
        string model = Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");
        var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "lora.dll"), "serve", "--model", model, "--served-model-name", "tiny", "--register", Fixtures.Path("mixed_batch"), "--port", "0", "--log-level", "information", "--log-format", "json"]) { RedirectStandardOutput = true, RedirectStandardError = true };
        using Process process = Process.Start(start)!;
        try
        {
            string line = await process.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken) ?? await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
            Assert.Contains(" and 3 more adapters at http://", line, StringComparison.Ordinal);
            using var client = new HttpClient { BaseAddress = new Uri(line[line.IndexOf("http://", StringComparison.Ordinal)..]) };
            using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = new StringContent("""{"prompt":"The","max_tokens":200,"ignore_eos":true,"stream":true}""", Encoding.UTF8, "application/json") };
            using HttpResponseMessage running = await client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, TestContext.Current.CancellationToken);
            Assert.Equal(HttpStatusCode.OK, running.StatusCode);

            using (Process kill = Process.Start("kill", ["-TERM", process.Id.ToString(System.Globalization.CultureInfo.InvariantCulture)]))
            {
                await kill.WaitForExitAsync(TestContext.Current.CancellationToken);
            }

            string rest = await running.Content.ReadAsStringAsync(TestContext.Current.CancellationToken);
            string log = await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
            await process.WaitForExitAsync(TestContext.Current.CancellationToken);

            Assert.EndsWith("data: [DONE]\n\n", rest);
            Assert.Contains("\"finish_reason\":\"length\"", rest);
            Assert.Equal(0, process.ExitCode);
            Assert.Contains("\"GeneratedTokens\":200", log);
        }
        finally
        {
            if (!process.HasExited)
            {
                process.Kill();
            }
        }
    }
}

using System.Net;
using System.Text;
using System.Text.Json.Nodes;

namespace LoraSharp.Cli.Tests;

/// <summary><c>lora train</c>: objectives, equalities, and what bad input is answered with.</summary>
public sealed class TrainCommandTests : IDisposable
{
    private readonly TrainingFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("dpo", true)]
    [InlineData("ipo", true)]
    [InlineData("hinge", true)]
    [InlineData("orpo", false)]
    [InlineData("simpo", false)]
    public async Task Preferences_are_learned_and_the_reference_is_run_once(string loss, bool needsReference)
    {
        string data = _folder.Write("pairs.jsonl", [.. Enumerable.Range(0, 4).Select(i => $$"""{"prompt": "Is {{i}} a number? ", "chosen": "It is.", "rejected": "Go away and read."}""")]);
        CommandRun run = await _folder.TrainAsync(data, "run", $"preference.loss={loss}", "training.max_steps=8", "preference.beta=0.5");
        Assert.True(run.ExitCode == 0, run.Error);
        double[] margins = _folder.Metric("run", "rewards/margins");
        // On the whole: IPO draws the margin to 1/(2β) and swings around it.
        Assert.True(margins.Skip(1).Average() > margins[0] + 0.1, string.Join(", ", margins));
        Assert.All(_folder.Metric("run", "rewards/accuracies"), a => Assert.InRange(a, 0, 1));
        FileInfo cache = new(Path.Combine(_folder.Path("run"), "reference.bin"));
        Assert.Equal(needsReference, cache.Exists);
        if (needsReference)
        {
            // Eight answers, whatever the number of epochs: 8 bytes of magic, 40 of each.
            Assert.Equal(8 + (8 * 40), cache.Length);
        }
    }

    [Fact]
    public async Task Kto_learns_from_verdicts()
    {
        string data = _folder.Write("verdicts.jsonl", [.. Enumerable.Range(0, 8).Select(i => $$"""{"prompt": "Is {{i}} a number? ", "completion": "{{(i % 2 == 0 ? "It is." : "Go away and read.")}}", "label": {{(i % 2 == 0 ? "true" : "false")}}}""")]);
        CommandRun run = await _folder.TrainAsync(data, "run", "training.max_steps=10", "training.batch_size=4", "preference.beta=0.5");
        Assert.True(run.ExitCode == 0, run.Error);
        double[] losses = _folder.Metric("run", "loss");
        Assert.True(losses.TakeLast(2).Average() < losses.Take(2).Average() - 0.05, string.Join(", ", losses));
    }

    [Fact]
    public async Task Kto_takes_passes_of_one_verdict_and_means_rewards_over_their_own_rows()
    {
        // One row of eight is undesirable: three of a step's four passes have none.
        string data = _folder.Write("verdicts.jsonl", [.. Enumerable.Range(0, 8).Select(i => $$"""{"prompt": "Is {{i}} a number? ", "completion": "{{(i > 0 ? "It is." : "Go away and read.")}}", "label": {{(i > 0 ? "true" : "false")}}}""")]);
        string again = _folder.Write("again.jsonl", [.. Enumerable.Range(0, 2).SelectMany(_ => File.ReadAllLines(data))]);
        CommandRun run = await _folder.TrainAsync(data, "run", "training.max_steps=2", "training.gradient_accumulation=4", $"data.validation={again}", "data.allow_overlap=true", "training.eval_steps=1");
        Assert.True(run.ExitCode == 0, run.Error);
        double[] chosen = _folder.Metric("run", "rewards/chosen"), rejected = _folder.Metric("run", "rewards/rejected");
        Assert.Equal(2, rejected.Length);
        Assert.NotEqual(0, rejected[1]);
        Assert.Equal(chosen.Zip(rejected, (c, r) => c - r), _folder.Metric("run", "rewards/margins"), (a, b) => Math.Abs(a - b) < 1e-9);

        // Step 2's rewards are those of the weights that were evaluated after step 1, on the same rows twice.
        Assert.Equal(chosen[1], _folder.Metric("run", "eval_rewards/chosen")[0], 1e-3);
        Assert.Equal(rejected[1], _folder.Metric("run", "eval_rewards/rejected")[0], 1e-3);
    }

    [Fact]
    public async Task However_a_step_is_cut_its_losses_and_norms_are_the_same()
    {
        string data = _folder.Write("rows.jsonl", [.. Enumerable.Range(0, 24).Select(i => $$"""{"prompt": "Count: ", "completion": "{{string.Join(' ', Enumerable.Range(0, 1 + (i * 5 % 13)))}}"}""")]);
        List<(double[] Losses, double[] Norms)> runs = [];
        foreach ((int batch, int accumulation) in ((int, int)[])[(8, 1), (4, 2), (1, 8)])
        {
            string output = $"run{batch}";
            CommandRun run = await _folder.TrainAsync(data, output, $"training.batch_size={batch}", $"training.gradient_accumulation={accumulation}", "training.max_steps=4", "training.learning_rate=2e-4");
            Assert.True(run.ExitCode == 0, run.Error);
            runs.Add((_folder.Metric(output, "loss"), _folder.Metric(output, "grad_norm")));
        }

        foreach ((double[] losses, double[] norms) in runs.Skip(1))
        {
            Assert.All(runs[0].Losses.Zip(losses), p => Assert.Equal(p.First, p.Second, 1e-6 * Math.Max(1, p.First)));
            Assert.All(runs[0].Norms.Zip(norms), p => Assert.Equal(p.First, p.Second, 1e-5 * Math.Max(1, p.First)));
        }
    }

    [Fact]
    public async Task A_packed_step_has_the_loss_of_its_rows_padded()
    {
        string data = _folder.Write("rows.jsonl", [.. Enumerable.Range(0, 12).Select(i => $$"""{"prompt": "Count: ", "completion": "{{string.Join(' ', Enumerable.Range(0, 1 + (i % 7)))}}"}""")]);
        CommandRun padded = await _folder.TrainAsync(data, "padded", "training.batch_size=12", "training.max_steps=2");
        CommandRun packed = await _folder.TrainAsync(data, "packed", "training.batch_size=12", "training.max_steps=2", "data.packing=true");
        Assert.True(padded.ExitCode + packed.ExitCode == 0, padded.Error + packed.Error);
        Assert.All(_folder.Metric("padded", "loss").Zip(_folder.Metric("packed", "loss")), p => Assert.Equal(p.First, p.Second, 1e-6 * p.First));
        Assert.Equal(_folder.Metric("padded", "tokens"), _folder.Metric("packed", "tokens"));
    }

    [Theory]
    [InlineData("rows.jsonl:2:", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\", \"completion\": ")]
    [InlineData("rows.jsonl", "")]
    [InlineData("the completion is empty", "{\"prompt\": \"a\", \"completion\": \"\"}")]
    [InlineData("rows.jsonl:2", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"text\": \"c\"}")]
    [InlineData("rows.jsonl:1", "{\"prompt\": 5, \"completion\": \"b\"}")]
    public async Task A_faulty_set_is_one_error_with_its_place(string expected, string rows)
    {
        string data = _folder.Write("rows.jsonl", rows);
        CommandRun run = await _folder.TrainAsync(data, "run");
        Assert.Equal(1, run.ExitCode);
        Assert.StartsWith("error: ", run.Error, StringComparison.Ordinal);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("kto", """{"prompt": "a", "completion": "b", "label": "yes"}""", "rows.jsonl:1: 'label' must be true or false")]
    [InlineData("kto", """{"prompt": "a", "chosen": "b", "rejected": "c"}""", "expected a row of format kto, which preference.loss: kto learns from")]
    [InlineData("dpo", """{"prompt": "a", "completion": "b"}""", "expected a row of format preference, which preference.loss: dpo learns from, with 'chosen'")]
    [InlineData("none", """{"messages": [{"role": "user", "content": "a"}, {"role": "asistant", "content": "b"}]}""", "rows.jsonl:1: message 1 has the role 'asistant'")]
    [InlineData("none", """{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}""", "the assistant's message is empty (first: ")]
    public async Task Rows_that_do_not_fit_the_method_are_one_error(string loss, string row, string expected)
    {
        CommandRun run = await _folder.TrainAsync(_folder.Write("rows.jsonl", row), "run", $"preference.loss={loss}");
        Assert.Equal(1, run.ExitCode);
        Assert.StartsWith("error: ", run.Error, StringComparison.Ordinal);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Columns_that_are_not_used_are_told()
    {
        CommandRun run = await _folder.TrainAsync(_folder.Write("rows.jsonl", """{"prompt": "a", "completion": "b", "label": "yes"}"""), "run");
        Assert.Equal(0, run.ExitCode);
        Assert.Contains("1 rows, read as prompt_completion; columns not used: label (for kto, label must be true or false).", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Long_rows_are_cut_counted_and_said()
    {
        string data = _folder.Write("rows.jsonl", $$"""{"prompt": "a", "completion": "b"}""", $$"""{"prompt": "a", "completion": "{{string.Join(' ', Enumerable.Range(0, 200))}}"}""");
        CommandRun run = await _folder.TrainAsync(data, "run");
        Assert.Equal(0, run.ExitCode);
        Assert.Contains("1 of 2 rows were longer than max_length and cut at the end; ", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_validation_set_that_is_the_training_set_is_refused()
    {
        string data = _folder.Write("rows.jsonl", """{"prompt": "a", "completion": "b"}""", """{"prompt": "c", "completion": "d"}""");
        CommandRun run = await _folder.TrainAsync(data, "run", $"data.validation={data}");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("every validation row is a training row too", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_key_that_does_not_exist_is_answered_with_the_nearest()
    {
        string recipe = _folder.Write("recipe.yaml", $"model: {TrainingFolder.TinyBase}", "output: run", "training: { learning_rat: 1e-3, epochs: many }");
        CommandRun run = await CommandRun.OfAsync("train", recipe);
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("line 3: unknown key training.learning_rat. Did you mean training.learning_rate?", run.Error, StringComparison.Ordinal);
        Assert.Contains("training.epochs must be a number, found 'many'", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_run_that_goes_on_with_another_recipe_is_refused_with_the_differences()
    {
        string data = _folder.Write("rows.jsonl", """{"prompt": "a", "completion": "b"}""", """{"prompt": "c", "completion": "d"}""");
        Assert.Equal(0, (await _folder.TrainAsync(data, "run")).ExitCode);
        File.Delete(Path.Combine(_folder.Path("run"), ".complete"));
        CommandRun run = await _folder.TrainAsync(data, "run", "training.learning_rate=1e-3", "adapter.dropout=0.5");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("2 differences", run.Error, StringComparison.Ordinal);
        Assert.Contains("training.learning_rate: \"0.005\" in the checkpoint, \"0.001\" now", run.Error, StringComparison.Ordinal);
        Assert.Contains("adapter.dropout", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Best_weights_are_those_of_the_lowest_validation_loss()
    {
        string data = _folder.Write("rows.jsonl", [.. Enumerable.Range(0, 6).Select(i => $$"""{"prompt": "Say {{i}}: ", "completion": "number {{i}}"}""")]);
        string validation = _folder.Write("validation.jsonl", """{"prompt": "Name a colour: ", "completion": "The sky is blue and the grass is green."}""");
        string[] settings = ["training.learning_rate=5e-2", "training.max_steps=6", "training.eval_steps=1", "training.save_steps=1", "training.load_best=true", $"data.validation={validation}"];
        CommandRun run = await _folder.TrainAsync(data, "run", settings);
        Assert.True(run.ExitCode == 0, run.Error);
        double best = _folder.Metric("run", "eval_loss").Min();
        CommandRun measured = await CommandRun.OfAsync("eval", "--model", TrainingFolder.TinyBase, "--adapter", _folder.Path("run"), "--data", validation, "--device", "cpu", "--json");
        Assert.Equal(best, (double)JsonNode.Parse(measured.Output)!["loss"]!, 4);
    }

    [Fact]
    public async Task Telemetry_reaches_a_collector()
    {
        using var collector = new HttpListener();
        int port = FreePort();
        collector.Prefixes.Add($"http://127.0.0.1:{port}/");
        collector.Start();
        var received = new List<(string Path, string Body)>();
        Task listening = Task.Run(async () =>
        {
            while (collector.IsListening)
            {
                HttpListenerContext context = await collector.GetContextAsync();
                using var body = new MemoryStream();
                await context.Request.InputStream.CopyToAsync(body, TestContext.Current.CancellationToken);
                lock (received)
                {
                    received.Add((context.Request.Url!.AbsolutePath, Encoding.Latin1.GetString(body.ToArray())));
                }

                context.Response.Close();
            }
        }, TestContext.Current.CancellationToken);
        try
        {
            Environment.SetEnvironmentVariable("OTEL_EXPORTER_OTLP_ENDPOINT", $"http://127.0.0.1:{port}");
            Environment.SetEnvironmentVariable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
            string data = _folder.Write("rows.jsonl", """{"prompt": "a", "completion": "b"}""", """{"prompt": "c", "completion": "d"}""");
            CommandRun run = await _folder.TrainAsync(data, "run");
            Assert.True(run.ExitCode == 0, run.Error);
        }
        finally
        {
            Environment.SetEnvironmentVariable("OTEL_EXPORTER_OTLP_ENDPOINT", null);
            Environment.SetEnvironmentVariable("OTEL_EXPORTER_OTLP_PROTOCOL", null);
            collector.Stop();
            await listening.ContinueWith(_ => { }, TestContext.Current.CancellationToken, TaskContinuationOptions.None, TaskScheduler.Default);
        }

        Assert.Contains(received, r => r.Path == "/v1/metrics" && r.Body.Contains("lorasharp.training.step.duration", StringComparison.Ordinal));
        Assert.Contains(received, r => r.Path == "/v1/traces" && r.Body.Contains("checkpoint", StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_telemetry_address_that_is_none_is_refused()
    {
        CommandRun run = await _folder.TrainAsync("rows.jsonl", "run", "--telemetry", "nowhere");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("--telemetry 'nowhere'", run.Error, StringComparison.Ordinal);
    }

    private static int FreePort()
    {
        using var probe = new System.Net.Sockets.TcpListener(IPAddress.Loopback, 0);
        probe.Start();
        return ((IPEndPoint)probe.LocalEndpoint).Port;
    }
}

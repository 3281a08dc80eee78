using System.Text.Json.Nodes;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Inference;
using LoraSharp.Serving;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Cli.Tests;

/// <summary>Every variant all the way by commands: trained, saved, loaded, merged, served.</summary>
public sealed class AdapterVariantCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [InlineData("llama", "adapter.rank=4")]
    [InlineData("llama", "adapter.dora=true adapter.dropout=0.1")]
    [InlineData("llama", "adapter.init=pissa")]
    [InlineData("llama", "adapter.init=olora adapter.dora=true")]
    [InlineData("llama", "adapter.init=eva adapter.rank=2")]
    [InlineData("llama", "adapter.init=eva adapter.eva_rho=1 adapter.dora=true")]
    [InlineData("llama", "adapter.init=orthogonal adapter.rslora=true adapter.rank_pattern={down_proj: 2} adapter.alpha_pattern={q_proj: 5}")]
    [InlineData("llama", "adapter.rank_dropout=0.3 adapter.dropout=0.1 training.loraplus_ratio=4")]
    [InlineData("llama", "adapter.targets=[q_proj,v_proj] adapter.layers_to_transform=[1] adapter.layers_pattern=layers")]
    [InlineData("llama", "adapter.targets=.*\\.(q|up)_proj adapter.exclude=[layers.0.self_attn.q_proj]")]
    [InlineData("llama", "adapter.targets=[q_proj] adapter.modules_to_save=[lm_head,norm]")]
    [InlineData("llama", "adapter.targets=[embed_tokens,lm_head] adapter.dora=true")]
    [InlineData("gpt2", "adapter.targets=[c_attn,c_fc] adapter.bias=all")]
    [InlineData("gpt2", "adapter.targets=[c_attn,c_proj] adapter.bias=lora_only adapter.dora=true")]
    [InlineData("gpt2", "adapter.targets=[c_attn] adapter.trainable_tokens=[5,9]")]
    [InlineData("qwen2", "adapter.targets=[q_proj,k_proj] adapter.lora_bias=true")]
    [InlineData("qwen3", "adapter.targets=[q_proj] adapter.trainable_tokens=[5,9]")]
    [InlineData("mistral_tied", "adapter.targets=[embed_tokens,q_proj]")]
    [InlineData("mistral_tied", "adapter.targets=[lm_head,q_proj]")]
    [InlineData("phi3", "adapter.rank=4 adapter.init=gaussian")]
    [InlineData("mixtral", "adapter.targets=[q_proj,w1,w2,w3]")]
    [InlineData("mixtral", "adapter.target_parameters=[experts.gate_up_proj,experts.down_proj]")]
    [InlineData("gpt_oss", "adapter.target_parameters=[experts.gate_up_proj,experts.down_proj] adapter.targets=[q_proj]")]
    [InlineData("granitemoe", "adapter.target_parameters=[input_linear.weight] adapter.targets=[]")]
    public async Task Trained_loaded_merged_and_served_it_answers_alike(string model, string settings)
    {
        string source = Fixtures.Path("models/" + model);
        string run = Path.Combine(_folder, "run"), merged = Path.Combine(_folder, "merged"), ids = Path.Combine(source, "golden.safetensors");
        await Succeed(["train", "--model", source, "--data", await Rows(), "--output", run, "--max-steps", "4", "--warmup-steps", "0", "--batch-size", "2", "--learning-rate", "0.01",
            .. Settings(settings).SelectMany(s => (string[])["--set", s])]);
        JsonNode report = JsonNode.Parse((await Succeed("merge", "--model", source, "--adapter", run, "--output", merged, "--dtype", "float32", "--json")).Output)!["probe"]!;
        Assert.True((double)report["adapter_effect"]! > 1e-3);
        Assert.InRange((double)report["max_logit_difference"]! / (double)report["max_logit"]!, 0, 1e-5);
        using Tensor adapted = await Logits(source, ids, "--adapter", run);
        using Tensor whole = await Logits(merged, ids);
        using Tensor largest = (adapted - whole).abs().max();
        Assert.InRange(largest.item<float>(), 0, 1e-4);
        Assert.Equal(model == "gpt2", (bool)JsonNode.Parse(await File.ReadAllTextAsync(Path.Combine(run, "adapter_config.json"), TestContext.Current.CancellationToken))!["fan_in_fan_out"]!);
        Assert.Equal(await Served(merged, null), await Served(source, run));
    }

    private static async Task<int[]> Served(string model, string? adapter)
    {
        using LoadedModel loaded = EngineSetup.Load(new EngineOptions { Model = model });
        using InferenceEngine engine = loaded.CreateEngine(new EngineLimits());
        if (adapter is not null)
        {
            await engine.LoadAsync("a", adapter);
        }

        var request = new InferenceRequest { Prompt = [1, 5, 9], Adapter = adapter is null ? null : "a", Options = new GenerationOptions { MaxTokens = 8, IgnoreEos = true, Sampling = new SamplingOptions { Temperature = 0 } } };
        var tokens = new List<int>();
        await foreach (TokenUpdate update in engine.GenerateAsync(request, TestContext.Current.CancellationToken))
        {
            if (update.Token is { } token)
            {
                tokens.Add(token);
            }
        }

        return [.. tokens];
    }

    private static IEnumerable<string> Settings(string text)
    {
        string current = string.Empty;
        foreach (string part in text.Split(' '))
        {
            // A value may hold spaces; a setting begins with its section.
            if (current.Length > 0 && (part.StartsWith("adapter.", StringComparison.Ordinal) || part.StartsWith("training.", StringComparison.Ordinal)))
            {
                yield return current;
                current = string.Empty;
            }

            current = current.Length == 0 ? part : current + " " + part;
        }

        yield return current;
    }

    private async Task<string> Rows()
    {
        string data = Path.Combine(_folder, "rows.jsonl");
        await File.WriteAllTextAsync(data, string.Concat(Enumerable.Range(0, 8).Select(i => $"{{\"input_ids\": [1, {5 + i}, 9, 4, {20 + i}, 7], \"labels\": [1, {5 + i}, 9, 4, {20 + i}, 7]}}\n")), TestContext.Current.CancellationToken);
        return data;
    }

    private static async Task<CommandRun> Succeed(params string[] args)
    {
        CommandRun run = await CommandRun.OfAsync(args);
        Assert.True(run.ExitCode == 0, run.Error);
        return run;
    }

    private async Task<Tensor> Logits(string model, string ids, params string[] more)
    {
        string output = Path.Combine(_folder, "logits.safetensors");
        await Succeed(["logits", "--model", model, "--input", ids, "--output", output, .. more]);
        using SafetensorsFile file = SafetensorsFile.Open(output);
        using Tensor mapped = TensorBytes.ToTensor(file.Read("logits"), null, CPU);
        return mapped.clone();
    }
}

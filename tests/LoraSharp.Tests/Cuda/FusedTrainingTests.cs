using System.Text.Json;
using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Recipes;

namespace LoraSharp.Tests.Cuda;

/// <summary>A whole run on a GPU by the fused step against the same run by libtorch's operators, on a random base with an embedding and a head of their own.</summary>
public sealed class FusedTrainingTests : IDisposable
{
    private const int Size = 64, Inner = 96, HeadSize = 16, Heads = 4, KeyHeads = 2, Layers = 2, Vocabulary = 160;
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-fused-");

    public void Dispose() => _folder.Delete(recursive: true);

    /// <summary>With checkpointing the embedding waits in host memory, where validation reads it too.</summary>
    [Theory]
    [InlineData("lora", "off", 1)]
    [InlineData("lora", "on", 2)]
    [InlineData("qlora", "on", 1)]
    public void Its_losses_are_the_plain_steps(string method, string checkpointing, int accumulation)
    {
        TestDevice.GpuOrSkip();
        WriteBase();
        WriteRows();
        (double[] losses, double validation, string[] notes) = Run(method, checkpointing, accumulation, "auto");
        (double[] plain, double plainValidation, _) = Run(method, checkpointing, accumulation, "off");

        Assert.DoesNotContain(notes, n => n.Contains("fused step is not used", StringComparison.Ordinal));
        Assert.Equal(12, losses.Length);
        Assert.All(plain.Zip(losses), p => Assert.Equal(p.First, p.Second, 0.02 * p.First));
        Assert.Equal(plainValidation, validation, 0.02 * plainValidation);
        Assert.True(losses[^1] < 0.9 * losses[0], "nothing was learnt");
    }

    private (double[] Losses, double Validation, string[] Notes) Run(string method, string checkpointing, int accumulation, string fused)
    {
        var notes = new List<string>();
        Recipe recipe = RecipeReader.Read(null, new Dictionary<string, string>
        {
            ["model"] = Path.Combine(_folder.FullName, "base"),
            ["method"] = method,
            ["output"] = Path.Combine(_folder.FullName, $"{method}-{checkpointing}-{fused}"),
            ["data.train"] = Path.Combine(_folder.FullName, "rows.jsonl"),
            ["data.validation"] = "0.2",
            ["data.packing"] = "true",
            ["data.max_length"] = "64",
            ["device"] = "cuda",
            ["dtype"] = "bfloat16",
            ["adapter.rank"] = "4",
            ["adapter.targets"] = "all-linear",
            ["training.max_steps"] = "12",
            ["training.batch_size"] = "2",
            ["training.gradient_accumulation"] = $"{accumulation}",
            ["training.learning_rate"] = "1e-2",
            ["training.gradient_checkpointing"] = checkpointing,
            ["training.fused_step"] = fused,
        });
        FineTuneResult result = new FineTuneRun(recipe).Execute(notes: notes.Add, cancellation: TestContext.Current.CancellationToken);
        JsonNode[] lines = [.. File.ReadLines(Path.Combine(result.Folder, "metrics.jsonl")).Select(l => JsonNode.Parse(l)!)];
        using AdapterFolder adapter = AdapterFolder.Open(result.Folder);
        Assert.Equal(4, adapter.Config.Rank);
        return ([.. lines.Select(l => l["loss"]).OfType<JsonNode>().Select(l => (double)l)], (double)lines.Select(l => l["eval_loss"]).OfType<JsonNode>().Last(), [.. notes]);
    }

    private void WriteRows()
    {
        var random = new Random(5);
        File.WriteAllLines(Path.Combine(_folder.FullName, "rows.jsonl"), Enumerable.Range(0, 60).Select(_ =>
        {
            // Runs of numbers: something to learn.
            int start = random.Next(Vocabulary);
            int[] ids = [.. Enumerable.Range(start, random.Next(10, 40)).Select(i => i % Vocabulary)];
            return JsonSerializer.Serialize(new { input_ids = ids, labels = ids, attention_mask = ids.Select(_ => 1) });
        }));
    }

    private void WriteBase()
    {
        string folder = Directory.CreateDirectory(Path.Combine(_folder.FullName, "base")).FullName;
        File.WriteAllText(Path.Combine(folder, "config.json"), JsonSerializer.Serialize(new
        {
            architectures = (string[])["LlamaForCausalLM"],
            model_type = "llama",
            hidden_size = Size,
            intermediate_size = Inner,
            head_dim = HeadSize,
            num_attention_heads = Heads,
            num_key_value_heads = KeyHeads,
            num_hidden_layers = Layers,
            vocab_size = Vocabulary,
            max_position_embeddings = 128,
            rms_norm_eps = 1e-6,
            rope_theta = 10000.0,
            hidden_act = "silu",
            tie_word_embeddings = false,
            torch_dtype = "float32",
        }));
        var random = new Random(3);
        var tensors = new List<TensorToWrite>();
        void Add(string name, double scale, double around, params long[] shape)
        {
            float[] values = [.. Enumerable.Range(0, (int)shape.Aggregate(1L, (a, b) => a * b)).Select(_ => (float)(around + (scale * ((2 * random.NextDouble()) - 1))))];
            tensors.Add(TensorToWrite.From(new TensorData(new TensorInfo(name, ElementType.F32, shape), System.Runtime.InteropServices.MemoryMarshal.AsBytes<float>(values).ToArray())));
        }

        Add("model.embed_tokens.weight", 1, 0, Vocabulary, Size);
        Add("model.norm.weight", 0.1, 1, Size);
        Add("lm_head.weight", 0.2, 0, Vocabulary, Size);
        for (int l = 0; l < Layers; l++)
        {
            string at = $"model.layers.{l}.";
            Add(at + "input_layernorm.weight", 0.1, 1, Size);
            Add(at + "post_attention_layernorm.weight", 0.1, 1, Size);
            Add(at + "self_attn.q_proj.weight", 0.2, 0, Heads * HeadSize, Size);
            Add(at + "self_attn.k_proj.weight", 0.2, 0, KeyHeads * HeadSize, Size);
            Add(at + "self_attn.v_proj.weight", 0.2, 0, KeyHeads * HeadSize, Size);
            Add(at + "self_attn.o_proj.weight", 0.2, 0, Size, Heads * HeadSize);
            Add(at + "mlp.gate_proj.weight", 0.2, 0, Inner, Size);
            Add(at + "mlp.up_proj.weight", 0.2, 0, Inner, Size);
            Add(at + "mlp.down_proj.weight", 0.2, 0, Size, Inner);
        }

        SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors);
    }
}

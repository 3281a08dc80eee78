using System.Text.Json.Nodes;
using LoraSharp.Models;

namespace LoraSharp.Tests.Models;

public sealed class LlamaShapeTests
{
    [Theory]
    [InlineData("llama")]
    [InlineData("llama3")]
    [InlineData("llama_linear_rope")]
    [InlineData("mistral", 8)]
    [InlineData("mistral_tied")]
    [InlineData("qwen2")]
    [InlineData("qwen2_yarn")]
    [InlineData("qwen3")]
    [InlineData("helium", 32, "rotary")]
    [InlineData("qwen2_window", 512, "window")]
    [InlineData("mistral", 9, "window of 8 tokens is shorter than the longest sequence, 9")]
    [InlineData("llama_biases", 32, "biases")]
    [InlineData("llama_dynamic_rope", 32, "rotary")]
    [InlineData("smollm3", 32, "rotary")]
    [InlineData("qwen3_moe", 32, "experts")]
    [InlineData("mixtral", 32, "experts")]
    [InlineData("gemma", 32, "shape")]
    [InlineData("gemma2", 32, "shape")]
    [InlineData("gemma3_text", 32, "shape")]
    [InlineData("olmo", 32, "shape")]
    [InlineData("olmo2", 32, "shape")]
    [InlineData("exaone4", 32, "shape")]
    [InlineData("glm4", 32, "shape")]
    [InlineData("phi", 32, "shape")]
    [InlineData("phi3", 32, "shape")]
    [InlineData("gpt2", 32, "shape")]
    [InlineData("gpt_neox", 32, "shape")]
    [InlineData("falcon", 32, "shape")]
    [InlineData("opt", 32, "shape")]
    [InlineData("starcoder2", 32, "shape")]
    [InlineData("stablelm", 32, "shape")]
    [InlineData("cohere2", 32, "shape")]
    [InlineData("nemotron", 32, "shape")]
    [InlineData("granite", 32, "scales")]
    public void Kernels_written_for_Llama_take_what_computes_as_Llama_does(string model, int longest = 32, string? obstacle = null)
    {
        var json = (JsonObject)JsonNode.Parse(File.ReadAllText(Fixtures.Path($"models/{model}/config.json")))!;
        if (obstacle is null)
        {
            // Heads of 12, as some fixtures have them, would be refused for their size.
            (json["hidden_size"], json["head_dim"]) = (64, 16);
        }

        string? found = LlamaTensors.ShapeObstacle(DecoderConfig.Read(json, model), longest);
        if (obstacle is null)
        {
            Assert.Null(found);
            return;
        }

        Assert.NotNull(found);
        Assert.Contains(obstacle, found, StringComparison.Ordinal);
    }
}

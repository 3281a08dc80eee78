using System.Text.Json.Nodes;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Inference;
using LoraSharp.Layers;
using LoraSharp.Models;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

/// <summary>SmolLM2-135M-Instruct in float32, where the reference folder has it.</summary>
public class RealModelTests
{
    [Fact]
    public void SmolLm2GivesTheReferenceLogitsAndGreedyIds()
    {
        using ModelSource source = ModelSource.OpenFolder(Fixtures.ReferenceOrSkip("unpacked/smollm2-135m-instruct"));
        using SafetensorsFile golden = SafetensorsFile.Open(Fixtures.ReferenceOrSkip("fixtures/real/golden.safetensors"));
        NativeRuntime.EnsureLoaded();
        using CausalLanguageModel model = ModelLoader.Load(source, new DenseLinearFactory(), ScalarType.Float32, CPU);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        for (int i = 0; i < 4; i++)
        {
            Tensor ids = Read($"p{i}.input_ids");
            using var attention = new PaddedAttention();
            Tensor logits = model.Forward(ids, Golden.Arange(ids), attention).squeeze(0);
            Assert.InRange(Golden.Difference(Read($"p{i}.last_logits"), logits.select(0, -1)), 0, 1e-3);
            Tensor chosen = nn.functional.log_softmax(logits.narrow(0, 0, logits.shape[0] - 1), -1).gather(1, ids.narrow(1, 1, ids.shape[1] - 1).view(-1, 1)).view(-1);
            Assert.InRange(Golden.Difference(Read($"p{i}.token_logprobs"), chosen), 0, 1e-3);
        }

        int[] sequence = [.. Read("p0.greedy").view(-1).data<long>().ToArray().Select(t => (int)t)];
        GeneratedText text = new TextGenerator(model).Generate(sequence[..11], new() { MaxTokens = 40, IgnoreEos = true }, null, TestContext.Current.CancellationToken);
        Assert.Equal(sequence[11..], text.TokenIds);

        Tensor Read(string name) => TensorBytes.ToTensor(golden.Read(name), null, CPU);
    }

    [Fact]
    public void TheEndIdsAndSamplingDefaultsAreTheMakers()
    {
        var source = new ModelSource("x", Fixtures.Path("models/llama"), JsonNode.Parse("""{"eos_token_id": 9}""")!.AsObject(), new EmptyTensors());
        GenerationConfig config = GenerationConfig.Read(source);
        Assert.Equal([2], config.EosTokenIds);
        Assert.Equal(1, config.BosTokenId);
        Assert.True(config.Sampling.IsGreedy);
    }

    private sealed class EmptyTensors : Formats.ITensorSource
    {
        public string Location => "nowhere";

        public IReadOnlyDictionary<string, Formats.TensorInfo> Tensors { get; } = new Dictionary<string, Formats.TensorInfo>();

        public Formats.TensorData Read(string name) => throw new NotSupportedException();

        public void Dispose()
        {
        }
    }
}

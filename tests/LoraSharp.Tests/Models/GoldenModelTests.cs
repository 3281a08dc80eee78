using LoraSharp.Formats.HuggingFace;
using LoraSharp.Layers;
using LoraSharp.Models;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Models;

/// <summary>Every family and checkpoint variant against transformers 5.17.</summary>
public class GoldenModelTests
{
    public static TheoryData<string> Checkpoints => [.. Golden.Names()];

    [Theory]
    [MemberData(nameof(Checkpoints))]
    public void LogitsAndLossAreTransformers(string name)
    {
        using var golden = new Golden(name);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor ids = golden.Read("input_ids");
        using var attention = new PaddedAttention();
        Tensor logits = golden.Model.Forward(ids, Golden.Arange(ids), attention);
        Assert.InRange(Golden.Difference(golden.Read("logits"), logits), 0, 1e-4);

        long v = logits.shape[2], s = ids.shape[1];
        Tensor loss = nn.functional.cross_entropy(logits.narrow(1, 0, s - 1).reshape(-1, v), golden.Read("labels").narrow(1, 1, s - 1).reshape(-1), ignore_index: -100);
        Assert.Equal(golden.Read("loss").item<float>(), loss.item<float>(), 1e-5f);
    }

    [Theory]
    [MemberData(nameof(Checkpoints))]
    public void PaddedRowsAreTransformers(string name)
    {
        using var golden = new Golden(name);
        using var scope = NewDisposeScope();
        using var frozen = no_grad();
        Tensor ids = golden.Read("padded_input_ids");
        Tensor mask = golden.Read("padded_attention_mask");
        using var attention = new PaddedAttention(mask);
        Tensor logits = golden.Model.Forward(ids, Golden.Arange(ids), attention);
        Tensor real = mask.ne(0).unsqueeze(-1);
        Assert.InRange(Golden.Difference(golden.Read("padded_logits") * real, logits * real), 0, 1e-4);
    }

    [Fact]
    public void EveryFamilyHasACheckpoint()
    {
        HashSet<string> covered = [.. Golden.Names().Select(n => JsonFile.ReadObject(Path.Combine(Fixtures.Path("models/" + n), "config.json"))["model_type"]!.ToString())];
        Assert.Empty(DecoderFamilies.Names.Except(covered));
    }
}

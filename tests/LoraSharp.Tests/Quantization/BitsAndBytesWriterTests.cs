using System.Text.Json.Nodes;
using LoraSharp.Formats;
using LoraSharp.Formats.HuggingFace;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Quantization;
using LoraSharp.Tensors;
using static TorchSharp.torch;

namespace LoraSharp.Tests.Quantization;

public sealed class BitsAndBytesWriterTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lora-bnb-").FullName;

    public BitsAndBytesWriterTests() => NativeRuntime.EnsureLoaded();

    /// <summary>Every tensor and the configuration equal what transformers saved for the same base.</summary>
    [Theory]
    [InlineData("bnb_nf4", false)]
    [InlineData("bnb_nf4_double", true)]
    public void FilesAreWhatTransformersSaves(string name, bool twice)
    {
        var options = new QuantizationOptions { DoubleQuantization = twice };
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("nf4/base_bf16"));
        Dictionary<string, FourBitWeight> weights = Quantize(source, options);
        BitsAndBytesWriter.Write(source, weights, ["lm_head"], "lm_head", options, _folder);
        foreach (FourBitWeight weight in weights.Values)
        {
            weight.Dispose();
        }

        using SafetensorsFile expected = SafetensorsFile.Open(Fixtures.Path($"nf4/{name}/model.safetensors"));
        using SafetensorsFile actual = SafetensorsFile.Open(Path.Combine(_folder, "model.safetensors"));
        Assert.Equal(expected.Tensors.Keys.Order(), actual.Tensors.Keys.Order());
        foreach (TensorInfo info in expected.Tensors.Values)
        {
            TensorInfo found = actual.Tensors[info.Name];
            Assert.Equal((info.Name, info.Type, info.ShapeText), (found.Name, found.Type, found.ShapeText));
            Assert.True(expected.Read(info.Name).Slice(0, (int)info.ByteCount).SequenceEqual(actual.Read(info.Name).Slice(0, (int)info.ByteCount)), info.Name);
        }

        JsonObject config = JsonFile.ReadObject(Path.Combine(_folder, "config.json"));
        JsonObject golden = JsonFile.ReadObject(Fixtures.Path($"nf4/{name}/config.json"));
        Assert.True(JsonNode.DeepEquals(golden["quantization_config"], config["quantization_config"]), config["quantization_config"]!.ToJsonString());
        Assert.Contains("\"llm_int8_threshold\": 6.0,", File.ReadAllText(Path.Combine(_folder, "config.json")), StringComparison.Ordinal);
        Assert.True(File.Exists(Path.Combine(_folder, "generation_config.json")));
    }

    /// <summary>A checkpoint is all there or not at all: nothing is mixed with what a folder held before.</summary>
    [Fact]
    public void A_folder_that_holds_something_is_left_alone()
    {
        File.WriteAllText(Path.Combine(_folder, "keep.txt"), "mine");
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("nf4/base_bf16"));

        Assert.Throws<LoraSharpException>(() => BitsAndBytesWriter.Write(source, new Dictionary<string, FourBitWeight>(), ["lm_head"], "lm_head", new QuantizationOptions(), _folder));

        Assert.Equal([Path.Combine(_folder, "keep.txt")], Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public void SkippedLayersAreRecordedAndRead()
    {
        var options = new QuantizationOptions { Type = FourBitType.Fp4, BlockSize = 128, SkipModules = ["down_proj"] };
        using ModelSource source = ModelSource.OpenFolder(Fixtures.Path("nf4/base_bf16"));
        Dictionary<string, FourBitWeight> weights = Quantize(source, options);
        string[] kept = ["lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"];
        BitsAndBytesWriter.Write(source, weights, kept, "lm_head", options, _folder);
        using ModelSource raw = ModelSource.OpenFolder(_folder);
        Assert.Equal(kept, raw.Config["quantization_config"]!["llm_int8_skip_modules"]!.AsArray().Select(n => (string)n!));
        using ModelSource read = BitsAndBytesSource.Unwrap(ModelSource.OpenFolder(_folder));
        Assert.Equal(source.Tensors.Tensors.Keys.Order(), read.Tensors.Tensors.Keys.Order());
        Assert.Equal(12, ((BitsAndBytesSource)read.Tensors).FourBitCount);
        foreach ((string name, FourBitWeight weight) in weights)
        {
            using Tensor dense = weight.Dequantize(ScalarType.BFloat16);
            using Tensor loaded = TensorBytes.ToTensor(read.Tensors.Read(name), null, CPU);
            Assert.True(dense.equal(loaded).all().item<bool>());
            weight.Dispose();
        }
    }

    [Fact]
    public void Int8CheckpointsAreDequantised()
    {
        SafetensorsWriter.Write(Path.Combine(_folder, "model.safetensors"),
        [
            Of("a.weight", ElementType.I8, [2, 3], [1, 127, 129, 0, 255, 2]),
            Of("a.SCB", ElementType.F32, [2], [.. BitConverter.GetBytes(2f), .. BitConverter.GetBytes(0.5f)]),
            Of("a.weight_format", ElementType.U8, [], [0]),
        ]);
        File.WriteAllText(Path.Combine(_folder, "config.json"), """{"model_type": "llama", "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}}""");
        using ModelSource read = BitsAndBytesSource.Unwrap(ModelSource.OpenFolder(_folder));
        TensorInfo info = Assert.Single(read.Tensors.Tensors.Values);
        Assert.Equal((ElementType.F32, "[2, 3]"), (info.Type, info.ShapeText));
        using Tensor dense = TensorBytes.ToTensor(read.Tensors.Read("a.weight"), null, CPU);
        float[] expected = [2f / 127, 2, -2, 0, -0.5f / 127, 1f / 127];
        Assert.All(dense.data<float>().ToArray().Zip(expected), p => Assert.Equal(p.Second, p.First, 1e-7f));
    }

    [Fact]
    public void MalformedStatesAreAllReported()
    {
        byte[] wrong = """{"quant_type": "nf4", "blocksize": 48, "dtype": "int8", "shape": [4]}"""u8.ToArray();
        byte[] right = """{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]}"""u8.ToArray();
        byte[] hostile = """{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2147483647, 2147483647]}"""u8.ToArray();
        SafetensorsWriter.Write(Path.Combine(_folder, "model.safetensors"),
        [
            Of("a.weight.quant_state.bitsandbytes__nf4", ElementType.U8, [wrong.Length], wrong),
            Of("b.weight.quant_state.bitsandbytes__nf4", ElementType.U8, [right.Length], right),
            Of("b.weight", ElementType.U8, [63, 1], new byte[63]),
            Of("c.weight.quant_state.bitsandbytes__nf4", ElementType.U8, [hostile.Length], hostile),
            Of("d.weight.quant_state.bitsandbytes__nf4", ElementType.U8, [4], "[1]}"u8.ToArray()),
        ]);
        File.WriteAllText(Path.Combine(_folder, "config.json"), """{"quantization_config": {"quant_method": "bitsandbytes"}}""");
        using ModelSource source = ModelSource.OpenFolder(_folder);
        string message = Assert.Throws<MalformedFileException>(() => BitsAndBytesSource.Unwrap(source)).Message;
        foreach (string part in (string[])["blocksize 48", "dtype 'int8'", "shape [4]", "b.weight: expected 64 bytes, found U8 [63, 1]", "b.weight.absmax: expected 2 values of F32, found nothing", "c.weight: expected", "d.weight.quant_state.bitsandbytes__nf4: expected a JSON object"])
        {
            Assert.Contains(part, message, StringComparison.Ordinal);
        }

        File.WriteAllText(Path.Combine(_folder, "config.json"), """{"quantization_config": {"quant_method": "gptq"}}""");
        using ModelSource other = ModelSource.OpenFolder(_folder);
        Assert.Contains("'gptq'", Assert.Throws<LoraSharpException>(() => BitsAndBytesSource.Unwrap(other)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void LargeWeightsAreWrittenInShards()
    {
        TensorToWrite[] tensors = [.. Enumerable.Range(0, 5).Select(i => Of($"t{i}", ElementType.U8, [100], new byte[100]))];
        SafetensorsFolder.Write(_folder, tensors, shardBytes: 250);
        Assert.True(File.Exists(Path.Combine(_folder, "model-00003-of-00003.safetensors")));
        using SafetensorsCheckpoint checkpoint = SafetensorsCheckpoint.Open(_folder);
        Assert.Equal(5, checkpoint.Tensors.Count);
        Assert.Equal(3, checkpoint.Files.Count);
    }

    public void Dispose() => Directory.Delete(_folder, true);

    private static Dictionary<string, FourBitWeight> Quantize(ModelSource source, QuantizationOptions options)
    {
        var weights = new Dictionary<string, FourBitWeight>();
        foreach (string name in source.Tensors.Tensors.Keys.Where(n => n.EndsWith("_proj.weight", StringComparison.Ordinal) && !options.Skips(n[..^".weight".Length])))
        {
            using Tensor dense = TensorBytes.ToTensor(source.Tensors.Read(name), null, CPU);
            weights.Add(name, FourBitWeight.Quantize(dense, name, options, CPU));
        }

        return weights;
    }

    private static TensorToWrite Of(string name, ElementType type, long[] shape, byte[] bytes) => new(new TensorInfo(name, type, shape), stream => stream.Write(bytes));
}

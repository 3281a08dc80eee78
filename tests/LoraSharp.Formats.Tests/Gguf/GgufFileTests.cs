using LoraSharp.Formats.Gguf;

namespace LoraSharp.Formats.Tests.Gguf;

public sealed class GgufFileTests
{
    [Fact]
    public void Reads_metadata_and_tensors_of_a_real_file()
    {
        using GgufFile file = GgufFile.Open(Fixtures.Path("gguf/tiny-q4_0.gguf"));
        Assert.Equal(3, file.Version);
        Assert.Equal("llama", file.Metadata["general.architecture"].AsString());
        Assert.Equal(8, file.Metadata["llama.attention.head_count"].AsInt32());
        Assert.Equal(1e-6, file.Metadata["llama.attention.layer_norm_rms_epsilon"].AsDouble());
        Assert.Equal("<unk>", file.Metadata["tokenizer.ggml.tokens"].AsStrings()[0]);
        Assert.Equal(-287f, file.Metadata["tokenizer.ggml.scores"].AsFloats()[287]);
        Assert.Equal(6, file.Metadata["tokenizer.ggml.token_type"].AsIntegers()[3]);
        GgufTensorInfo tensor = file.Tensors["blk.0.attn_k.weight"];
        Assert.Equal(GgufTensorType.Q4_0, tensor.Type);
        Assert.Equal([64L, 256L], tensor.Shape);
        Assert.Equal(64 * 256 / 32 * 18, tensor.ByteCount);
    }

    [Fact]
    public void Version_2_is_read()
    {
        using var folder = new TemporaryFolder();
        string path = folder.File("v2.gguf");
        File.WriteAllBytes(path, new GgufBytes { Version = 2, DataLength = 64 }.UInt32("general.alignment", 64).Tensor("a", 0, 0, 4, 2).ToArray());
        // The builder aligns to 32, the file asks for 64: what matters here is that the data begins where it says.
        using GgufFile file = GgufFile.Open(path);
        Assert.Equal(2, file.Version);
        Assert.Equal(0, file.DataOffset % 64);
        Assert.Equal([2L, 4L], file.Tensors["a"].Shape);
    }

    [Fact]
    public void A_wrong_type_is_named_with_its_key()
    {
        using GgufFile file = GgufFile.Open(Fixtures.Path("gguf/tiny-q4_0.gguf"));
        MalformedFileException error = Assert.Throws<MalformedFileException>(() => file.Metadata["tokenizer.ggml.tokens"].AsString());
        Assert.Contains("tokenizer.ggml.tokens", error.Message, StringComparison.Ordinal);
        Assert.Contains("expected a string, found an array of 288 String", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Lying_headers_are_refused_with_place_and_values()
    {
        Contains(new GgufBytes { Version = 1 }.Fault(), "version 1 at offset 4, expected 2 or 3");
        Contains(new GgufBytes { Version = 0x03000000 }.Fault(), "big-endian");
        Contains(new GgufBytes { ClaimedKeys = ulong.MaxValue }.Fault(), "claims 18446744073709551615 metadata values");
        Contains(new GgufBytes { ClaimedTensors = 5 }.Fault(), "claims 5 tensors");
        Contains(new GgufBytes { ClaimedKeys = 2, DataLength = 64 }.String("a", "b").Fault(), "a metadata key at offset 46 claims 0 bytes");
        Contains(new GgufBytes().Key("k", 13, w => w.Write(1)).Fault(), "'k' at offset 24 has type 13");
        Contains(new GgufBytes().Key("k", 8, w => w.Write(ulong.MaxValue)).Fault(), "a string of 18446744073709551615 bytes");
        Contains(new GgufBytes().Key("k", 9, Array(4, 1UL << 61)).Fault(), "claims 2305843009213693952 elements of UInt32");
        Contains(new GgufBytes().Key("k", 9, Array(9, 1)).Fault(), "no array of arrays");
        Contains(new GgufBytes().UInt32("k", 1).UInt32("k", 2).Fault(), "'k' twice");
        Contains(new GgufBytes().UInt32("general.alignment", 48).Fault(), "general.alignment is 48");
    }

    [Fact]
    public void Lying_tensors_are_refused_with_place_and_values()
    {
        Contains(new GgufBytes { DataLength = 64 }.Tensor("t", 0, 0, 1, 1, 1, 1, 1).Fault(), "'t' at offset 24 has 5 dimensions");
        Contains(new GgufBytes { DataLength = 64 }.Tensor("t", 4, 0, 32).Fault(), "'t' at offset 24 has type 4");
        Contains(new GgufBytes { DataLength = 64 }.Tensor("t", 2, 0, 33).Fault(), "rows of 33 weights do not fill blocks of 32 as Q4_0");
        Contains(new GgufBytes { DataLength = 64 }.Tensor("t", 0, 0, 1UL << 40, 1UL << 40).Fault(), "dimension 1 of size 1099511627776 overflows");
        Contains(new GgufBytes { DataLength = 64 }.Tensor("t", 28, 0, 1UL << 62).Fault(), "overflow the number of bytes");
        Contains(new GgufBytes { DataLength = 64 }.Tensor("t", 0, 0, 32).Fault(), "(F32 [32], 128 bytes at byte 0 of the data) runs past the end: the file holds 64 bytes");
        Contains(new GgufBytes { DataLength = 64 }.Tensor("t", 0, 8, 2).Fault(), "not a multiple of the alignment 32");
        Contains(new GgufBytes { DataLength = 128 }.Tensor("t", 0, 0, 16).Tensor("u", 0, 32, 8).Fault(), "'u' at bytes 32 to 64 of the data overlaps tensor 't', which ends at 64");
        Contains(new GgufBytes { DataLength = 128 }.Tensor("t", 0, 0, 8).Tensor("t", 0, 32, 8).Fault(), "the tensor 't' twice");
        Contains(new GgufBytes { DataLength = 64 }.Tensor("t", 0, 1UL << 63, 8).Fault(), "beyond any file");
    }

    [Fact]
    public void Text_that_is_not_utf8_is_refused_when_it_is_asked_for()
    {
        using var folder = new TemporaryFolder();
        string path = folder.File("bad.gguf");
        File.WriteAllBytes(path, new GgufBytes().Key("k", 8, w =>
        {
            w.Write(2UL);
            w.Write((byte)0xff);
            w.Write((byte)0xfe);
        }).ToArray());
        using GgufFile file = GgufFile.Open(path);
        Contains(Assert.Throws<MalformedFileException>(() => file.Metadata["k"].AsString()), "'k' holds a string that is not valid UTF-8");
    }

    [Fact]
    public void A_setting_that_is_not_finite_is_refused()
    {
        using var folder = new TemporaryFolder();
        string path = folder.File("m.gguf");
        File.WriteAllBytes(path, new GgufBytes().Key("k", 6, w => w.Write(float.NaN)).ToArray());
        using GgufFile file = GgufFile.Open(path);
        Contains(Assert.Throws<MalformedFileException>(() => file.Metadata["k"].AsDouble()), "metadata 'k': expected a number, found NaN");
    }

    [Fact]
    public void Truncation_anywhere_in_the_header_is_one_clear_error()
    {
        byte[] whole = File.ReadAllBytes(Fixtures.Path("gguf/adapter-f32.gguf"));
        using var folder = new TemporaryFolder();
        string path = folder.File("cut.gguf");
        foreach (int length in Enumerable.Range(0, 220).Concat([1000, 2000, whole.Length / 2, whole.Length - 1]))
        {
            File.WriteAllBytes(path, whole[..length]);
            Assert.Throws<MalformedFileException>(() => GgufFile.Open(path));
        }
    }

    [Fact]
    public void A_split_model_opens_by_any_of_its_files()
    {
        using var folder = new TemporaryFolder();
        for (int i = 0; i < 2; i++)
        {
            int number = i;
            File.WriteAllBytes(folder.File($"m-0000{i + 1}-of-00002.gguf"), new GgufBytes { DataLength = 32 }
                .Key("split.no", 2, w => w.Write((ushort)number)).Key("split.count", 2, w => w.Write((ushort)2)).Key("split.tensors.count", 5, w => w.Write(2))
                .Tensor($"t{i}", 0, 0, 8).ToArray());
        }

        foreach (string name in new[] { "m-00001-of-00002.gguf", "m-00002-of-00002.gguf" })
        {
            using GgufShards shards = GgufShards.Open(folder.File(name));
            Assert.Equal(["t0", "t1"], shards.Tensors.Keys);
            Assert.EndsWith("m-00002-of-00002.gguf", shards.FileOf("t1").Location, StringComparison.Ordinal);
        }

        File.Delete(folder.File("m-00002-of-00002.gguf"));
        Contains(Assert.Throws<MalformedFileException>(() => GgufShards.Open(folder.File("m-00001-of-00002.gguf"))), "00002-of-00002.gguf: there is no such file");
        File.Move(folder.File("m-00001-of-00002.gguf"), folder.File("renamed.gguf"));
        Contains(Assert.Throws<MalformedFileException>(() => GgufShards.Open(folder.File("renamed.gguf"))), "Give the files their names back");
    }

    private static Action<BinaryWriter> Array(uint type, ulong count) => w =>
    {
        w.Write(type);
        w.Write(count);
        w.Write(0UL);
    };

    private static void Contains(Exception error, string part) => Assert.Contains(part, error.Message, StringComparison.Ordinal);
}

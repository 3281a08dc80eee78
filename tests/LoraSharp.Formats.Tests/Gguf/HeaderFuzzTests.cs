using System.Buffers.Binary;
using System.Diagnostics;
using System.Globalization;
using LoraSharp.Formats.Gguf;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;

namespace LoraSharp.Formats.Tests.Gguf;

/// <summary>
/// Mutated headers: every one is either read or refused with one error of ours; no other exception, no hang, no allocation
/// above the file's size + 64 MB. LORASHARP_FUZZ sets the number of mutations of each kind of file (10⁶ was run, see
/// docs/benchmarks); without it there are a few thousand.
/// </summary>
public sealed class HeaderFuzzTests(ITestOutputHelper output)
{
    private const long Allowance = 64L << 20;

    private static int Mutations => int.TryParse(Environment.GetEnvironmentVariable("LORASHARP_FUZZ"), NumberStyles.None, CultureInfo.InvariantCulture, out int count) ? count : 6000;

    [Fact]
    public void Gguf_models()
    {
        byte[] whole = Model();
        Run(whole, whole.Length / 2, path =>
        {
            using GgufCheckpoint checkpoint = GgufCheckpoint.Open(path);
            _ = checkpoint.TokenizerJson();
            _ = checkpoint.TokenizerConfig();
            foreach (TensorInfo tensor in checkpoint.Tensors.Values.Where(t => t.ByteCount < 1 << 16))
            {
                _ = checkpoint.Read(tensor.Name);
            }
        });
    }

    [Fact]
    public void Gguf_adapters()
    {
        byte[] whole = File.ReadAllBytes(Fixtures.Path("gguf/adapter-f32.gguf"));
        System.Text.Json.Nodes.JsonObject config = new() { ["model_type"] = "llama", ["num_attention_heads"] = 8, ["num_key_value_heads"] = 2, ["hidden_size"] = 256 };
        // All of the header; of the data only what lies after it matters little.
        Run(whole, 2400, path =>
        {
            using AdapterFolder adapter = GgufAdapter.Open(path, config);
            _ = adapter.Parts.Count;
        });
    }

    [Fact]
    public void Safetensors_files()
    {
        byte[] whole = File.ReadAllBytes(Fixtures.Path("adapters/plain_qv/adapter_model.safetensors"));
        int header = 8 + (int)BinaryPrimitives.ReadInt64LittleEndian(whole);
        Run(whole, header, path =>
        {
            using SafetensorsFile file = SafetensorsFile.Open(path);
            _ = file.Tensors.Count;
        });
    }

    private void Run(byte[] whole, int header, Action<string> open)
    {
        using var folder = new TemporaryFolder();
        string path = folder.File("fuzz.bin");
        open(Written(path, whole));
        var random = new Random(whole.Length);
        (int read, int refused) = (0, 0);
        (long mostAllocated, double slowest) = (0, 0);
        for (int i = 0; i < Mutations; i++)
        {
            byte[] mutated = Mutate(whole, header, random);
            Written(path, mutated);
            long before = GC.GetAllocatedBytesForCurrentThread();
            long start = Stopwatch.GetTimestamp();
            try
            {
                open(path);
                read++;
            }
            catch (LoraSharpException)
            {
                refused++;
            }
            catch (Exception error)
            {
                File.Copy(path, Path.Combine(Path.GetTempPath(), "fuzz-failure.bin"), overwrite: true);
                Assert.Fail($"mutation {i}: {error}");
            }

            long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            mostAllocated = Math.Max(mostAllocated, allocated);
            slowest = Math.Max(slowest, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
            Assert.True(allocated <= mutated.Length + Allowance, $"mutation {i} of {mutated.Length} bytes allocated {allocated}");
            Assert.True(slowest < 20_000, $"mutation {i} took {slowest} ms");
        }

        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{Mutations} mutations of {whole.Length} bytes: {read} read, {refused} refused, most allocated {mostAllocated} bytes, slowest {slowest:F1} ms"));
        Assert.True(refused > 0 && read > 0);
    }

    private static string Written(string path, byte[] bytes)
    {
        File.WriteAllBytes(path, bytes);
        return path;
    }

    /// <summary>One to four changes: a bit, a byte, a number replaced by an extreme one, bytes cut, doubled or moved, the end cut off.</summary>
    private static byte[] Mutate(byte[] whole, int header, Random random)
    {
        byte[] bytes = [.. whole];
        for (int change = random.Next(1, 5); change > 0 && bytes.Length > 32; change--)
        {
            int limit = Math.Min(header, bytes.Length);
            int at = random.Next(limit);
            switch (random.Next(8))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2 when at + 8 <= bytes.Length:
                    ulong[] extremes = [0, 1, 2, 31, 32, 33, 255, 256, int.MaxValue, uint.MaxValue, 1UL << 32, long.MaxValue, 1UL << 63, ulong.MaxValue, (ulong)bytes.Length, (ulong)random.NextInt64()];
                    BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(at), extremes[random.Next(extremes.Length)]);
                    break;
                case 3 when at + 4 <= bytes.Length:
                    uint[] small = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 30, 34, 39, 40, 1000, int.MaxValue, uint.MaxValue];
                    BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(at), small[random.Next(small.Length)]);
                    break;
                case 4:
                    int cut = random.Next(1, Math.Min(64, bytes.Length - at));
                    bytes = [.. bytes[..at], .. bytes[(at + cut)..]];
                    break;
                case 5:
                    int doubled = random.Next(1, Math.Min(64, bytes.Length - at));
                    bytes = [.. bytes[..(at + doubled)], .. bytes[at..]];
                    break;
                case 6:
                    // A piece of the header over another: keys and tensors that repeat, types that disagree.
                    int length = random.Next(1, 48);
                    int from = random.Next(limit);
                    length = Math.Min(length, Math.Min(bytes.Length - from, bytes.Length - at));
                    Array.Copy(bytes, from, bytes, at, length);
                    break;
                default:
                    if (random.Next(4) == 0)
                    {
                        bytes = bytes[..random.Next(24, bytes.Length)];
                    }

                    break;
            }
        }

        return bytes;
    }

    /// <summary>A whole model of one layer: settings, tokenizer, interleaved heads, block types.</summary>
    private static byte[] Model()
    {
        var file = new GgufBytes();
        file.String("general.architecture", "llama");
        foreach ((string key, uint value) in new[] { ("block_count", 1u), ("context_length", 64u), ("embedding_length", 32u), ("feed_forward_length", 32u), ("attention.head_count", 4u), ("attention.head_count_kv", 2u), ("rope.dimension_count", 8u) })
        {
            file.UInt32("llama." + key, value);
        }

        file.Key("llama.attention.layer_norm_rms_epsilon", 6, w => w.Write(1e-5f));
        file.String("tokenizer.ggml.model", "llama").String("tokenizer.chat_template", "{{ messages }}");
        string[] tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "<0x0A>"];
        file.Key("tokenizer.ggml.tokens", 9, w =>
        {
            w.Write(8u);
            w.Write((ulong)tokens.Length);
            foreach (string token in tokens)
            {
                GgufBytes.Text(w, token);
            }
        });
        file.Key("tokenizer.ggml.scores", 9, w => Numbers(w, 6, tokens.Length, i => w.Write(-(float)i)));
        file.Key("tokenizer.ggml.token_type", 9, w => Numbers(w, 5, tokens.Length, i => w.Write(i switch { 0 => 2, 1 or 2 => 3, 8 => 6, _ => 1 })));
        file.UInt32("tokenizer.ggml.bos_token_id", 1).UInt32("tokenizer.ggml.eos_token_id", 2);
        ulong at = 0;
        void Tensor(string name, GgufTensorType type, params ulong[] sizes)
        {
            file.Tensor(name, (uint)type, at, sizes);
            at += ((ulong)type.ByteCount((long)sizes.Aggregate(1UL, (a, b) => a * b)) + 31) / 32 * 32;
        }

        Tensor("token_embd.weight", GgufTensorType.Q8_0, 32, 9);
        Tensor("output_norm.weight", GgufTensorType.F32, 32);
        Tensor("rope_freqs.weight", GgufTensorType.F32, 4);
        foreach ((string name, GgufTensorType type, ulong rows) in new[]
        {
            ("attn_q", GgufTensorType.Q4_0, 32UL), ("attn_k", GgufTensorType.F16, 16UL), ("attn_v", GgufTensorType.Q5_1, 16UL), ("attn_output", GgufTensorType.BF16, 32UL),
            ("ffn_gate", GgufTensorType.IQ4_NL, 32UL), ("ffn_up", GgufTensorType.Q4_1, 32UL), ("ffn_down", GgufTensorType.MXFP4, 32UL),
        })
        {
            Tensor($"blk.0.{name}.weight", type, 32, rows);
        }

        Tensor("blk.0.attn_norm.weight", GgufTensorType.F32, 32);
        Tensor("blk.0.ffn_norm.weight", GgufTensorType.F32, 32);
        file.DataLength = (int)at;
        return file.ToArray();
    }

    private static void Numbers(BinaryWriter writer, uint type, int count, Action<int> write)
    {
        writer.Write(type);
        writer.Write((ulong)count);
        for (int i = 0; i < count; i++)
        {
            write(i);
        }
    }
}

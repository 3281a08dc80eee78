using System.Diagnostics;
using System.Globalization;
using System.IO.Compression;
using BenchmarkDotNet.Attributes;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Benchmarks;

/// <summary>
/// Encoding, decoding and loading of a real tokenizer: LORASHARP_TOKENIZER names its folder, LORASHARP_TEXT a text file
/// (also .gz) in English.
/// </summary>
[MemoryDiagnoser]
public class TokenizerBenchmark
{
    private string _folder = "";
    private string[] _texts = [];
    private Tokenizer _tokenizer = null!;
    private int[] _ids = [];

    [GlobalSetup]
    public void Setup()
    {
        _folder = Environment.GetEnvironmentVariable("LORASHARP_TOKENIZER") ?? throw new InvalidOperationException("LORASHARP_TOKENIZER names no tokenizer folder");
        Prepare(_folder, Environment.GetEnvironmentVariable("LORASHARP_TEXT") ?? throw new InvalidOperationException("LORASHARP_TEXT names no text file"));
    }

    [Benchmark]
    public int Encode() => _texts.Sum(text => _tokenizer.Encode(text).Length);

    [Benchmark]
    public int EncodeWithOffsets() => _texts.Sum(text => _tokenizer.EncodeWithOffsets(text).Ids.Length);

    [Benchmark]
    public int Decode() => _tokenizer.Decode(_ids).Length;

    [Benchmark]
    public int Load() => TokenizerLoader.FromFolder(_folder).VocabularySize;

    /// <summary>The same by hand, in seconds rather than minutes; the first load includes the JIT compiler's work.</summary>
    internal static void Run(string folder, string text)
    {
        long start = Stopwatch.GetTimestamp();
        _ = TokenizerLoader.FromFolder(folder);
        double first = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        var benchmark = new TokenizerBenchmark { _folder = folder };
        benchmark.Prepare(folder, text);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"load: {first:F0} ms the first time, {Best(benchmark.Load) * 1000:F0} ms warm"));
        int tokens = benchmark._ids.Length;
        long chars = benchmark._texts.Sum(entry => (long)entry.Length);
        foreach ((string name, Func<int> run) in new (string, Func<int>)[] { ("encode", benchmark.Encode), ("encode with offsets", benchmark.EncodeWithOffsets), ("decode", benchmark.Decode) })
        {
            double seconds = Best(run);
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{name}: {tokens / seconds / 1e6:F2} M tokens/s, {chars / seconds / 1e6:F1} M characters/s ({tokens} tokens)"));
        }
    }

    private static double Best(Func<int> run)
    {
        double best = double.MaxValue;
        for (int i = 0; i < 7; i++)
        {
            long start = Stopwatch.GetTimestamp();
            run();
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        return best;
    }

    private void Prepare(string folder, string path)
    {
        _tokenizer = TokenizerLoader.FromFolder(folder);
        using Stream file = File.OpenRead(path);
        using Stream plain = path.EndsWith(".gz", StringComparison.Ordinal) ? new GZipStream(file, CompressionMode.Decompress) : file;
        using var reader = new StreamReader(plain);
        string text = reader.ReadToEnd();
        // Documents of some thousand characters, as in training data.
        _texts = [.. text.Chunk(4000).Take(500).Select(chunk => new string(chunk))];
        _ids = [.. _texts.SelectMany(entry => _tokenizer.Encode(entry, addSpecialTokens: false))];
    }
}

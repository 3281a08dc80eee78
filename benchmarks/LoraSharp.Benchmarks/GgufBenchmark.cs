using System.Diagnostics;
using LoraSharp.Formats.Gguf;

namespace LoraSharp.Benchmarks;

/// <summary>Decoding and encoding of GGUF's block types: millions of weights a second, best of several runs.</summary>
internal static unsafe class GgufBenchmark
{
    private const int Weights = 1 << 22;

    public static void Run()
    {
        var random = new Random(1);
        float[] weights = new float[Weights];
        for (int i = 0; i < weights.Length; i++)
        {
            weights[i] = (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        }

        Console.WriteLine($"{Weights} weights, {Environment.ProcessorCount} cores; M weights/s, relative error of normal weights");
        Console.WriteLine("type    plain 1 core  vectorised 1 core  all cores  ratio   encode all cores  error");
        foreach (GgufTensorType type in Enum.GetValues<GgufTensorType>().Where(t => t.Plain() is null || GgufQuantizer.Types.Contains(t)))
        {
            byte[] raw = new byte[type.ByteCount(Weights)];
            bool writes = GgufQuantizer.Types.Contains(type);
            double encode = 0;
            if (writes)
            {
                encode = Rate(() => GgufQuantizer.Quantize(type, weights, raw), 3);
            }
            else
            {
                random.NextBytes(raw);
            }

            float[] output = new float[Weights];
            double plain = Rate(() => GgufDequantizer.DequantizePlain(type, raw, output), 3);
            double fast = Rate(() => GgufDequantizer.Dequantize(type, raw, output), 7);
            double all;
            fixed (byte* source = raw)
            fixed (float* target = output)
            {
                (nint from, nint to) = ((nint)source, (nint)target);
                all = Rate(() => GgufDequantizer.Dequantize(type, (byte*)from, (float*)to, Weights), 7);
            }

            string error = writes ? Error(weights, output).ToString("F4", System.Globalization.CultureInfo.InvariantCulture) : "-";
            Console.WriteLine($"{type.Name(),-7} {plain,12:F0} {fast,18:F0} {all,10:F0} {fast / plain,6:F1} {(writes ? encode.ToString("F0", System.Globalization.CultureInfo.InvariantCulture) : "-"),18}  {error}");
        }
    }

    private static double Rate(Action run, int times)
    {
        run();
        double best = double.MaxValue;
        for (int i = 0; i < times; i++)
        {
            long start = Stopwatch.GetTimestamp();
            run();
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        return Weights / best / 1e6;
    }

    private static double Error(float[] expected, float[] found)
    {
        double error = 0;
        double norm = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            double difference = expected[i] - found[i];
            error += difference * difference;
            norm += (double)expected[i] * expected[i];
        }

        return Math.Sqrt(error / norm);
    }
}

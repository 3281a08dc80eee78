using LoraSharp.Benchmarks;

// Timed by hand, minima over many runs: what is measured are milliseconds of native code on a machine that others use too.
switch (args.FirstOrDefault())
{
    case "nf4":
        FourBitBenchmark.Run();
        return 0;
    case "gguf":
        GgufBenchmark.Run();
        return 0;
    case "train-cpu":
        return TrainCpuBenchmark.Run(args[1..]);
    case "packing":
        return PackingBenchmark.Run(args[1..]);
    case "sweep-cpu":
        return SweepBenchmark.Run(args[1..]);
    case "tables" when args.Length == 2:
        return ExperimentTables.Run(args[1]);
    case "decode" when args.Length == 2:
        DecodeBenchmark.Run(args[1]);
        return 0;
    case "nf4-memory":
        QuantizedMemoryBenchmark.Run(args.ElementAtOrDefault(1));
        return 0;
    case "nf4-layer":
        QuantizedLayerBenchmark.Run();
        return 0;
    case "quantized-rows":
        QuantizedRowsBenchmark.Run();
        return 0;
    case "qlora-step" when args.Length == 2:
        QloraStepBenchmark.Run(args[1]);
        return 0;
    case "quantized-decode" when args.Length > 1:
        QuantizedDecodeBenchmark.Run(args[1], args[2..]);
        return 0;
    case "adapters":
        return AdapterBenchmark.Run(args[1..]);
    case "gpu-decode" when args.Length > 1:
        return GpuDecoding.Run(args[1..]);
    case "gpu-train" when args.Length > 1:
        return GpuTraining.Run(args[1..]);
    case "tokenizer" when args.Length == 3:
        TokenizerBenchmark.Run(args[1], args[2]);
        return 0;
    case "constraints" when args.Length == 2:
        return ConstraintBenchmark.Run(args[1]);
    case "serve-batch":
        return ServeBatch.Create().Parse(args[1..]).Invoke();
    case "serve-throughput" when args.Length > 1:
        return await LoraSharp.Benchmarks.Serving.ServeThroughput.RunAsync(args[1..]);
    case "serve-load":
        return ServeLoad.Create().Parse(args[1..]).Invoke();
    case "serve-endurance":
        return ServeEndurance.Create().Parse(args[1..]).Invoke();
    case "bdn":
        BenchmarkDotNet.Running.BenchmarkSwitcher.FromAssembly(System.Reflection.Assembly.GetExecutingAssembly()).Run(args[1..]);
        return 0;
    default:
        Console.Error.WriteLine(
            "usage: dotnet run -c Release --project benchmarks/LoraSharp.Benchmarks -- nf4 | nf4-layer | nf4-memory [FOLDER] | quantized-rows | qlora-step FOLDER | quantized-decode FOLDER [GGUF ...] | gguf | train-cpu MODEL | packing MODEL ROWS | sweep-cpu MODEL | tables FOLDER | decode MODEL | " +
            "adapters MODEL | tokenizer FOLDER TEXT | constraints FOLDER | gpu-train check|1b|8b|0.5b|65b | gpu-decode check|1b|8b | serve-batch MODEL | serve-throughput MODEL [DTYPE [RANK]] | serve-load MODEL|URL | serve-endurance MODEL | bdn [BenchmarkDotNet's arguments]");
        return 2;
}

using System.CommandLine;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using LoraSharp.Formats;
using LoraSharp.Formats.Hub;
using LoraSharp.Quantization;
using LoraSharp.Recipes;
using LoraSharp.Tensors;

namespace LoraSharp.Cli.Commands;

/// <summary><c>lora doctor</c>: what this machine has, what is missing and how to get it, how much memory a recipe takes.</summary>
internal static class DoctorCommand
{
    public static Command Create()
    {
        var recipe = new Option<string?>("--recipe") { Description = "Predict the memory of this recipe.", HelpName = "RECIPE.yaml" };
        var shapes = new Option<bool>("--shapes") { Description = "Memory of fine-tuning 1B, 8B and 65B models, plain and in 4 bits." };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("doctor", "Show the machine, the native libraries and the GPU; predict the memory of a recipe.\nExample: lora doctor --recipe recipe.yaml") { recipe, shapes, json };
        command.SetAction(parsed =>
        {
            var findings = new List<Finding>();
            Machine(findings);
            Libraries(findings);
            Cache(findings);
            MemoryForecast? forecast = null;
            if (parsed.GetValue(recipe) is { } path)
            {
                forecast = Predict(path, findings);
            }

            if (parsed.GetValue(json))
            {
                CommandJson.Write(new { Findings = findings, Memory = forecast, Shapes = parsed.GetValue(shapes) ? Shapes().Select(s => new { s.Name, s.Estimate }) : null });
            }
            else
            {
                foreach (Finding finding in findings)
                {
                    Console.WriteLine($"{(finding.Ok ? "ok" : "!!")}  {finding.What,-16}  {finding.Text}");
                }

                if (parsed.GetValue(shapes))
                {
                    Console.WriteLine();
                    PlainTable.Write(Console.Out, ["model, r = 16, 2048 tokens", "base", "trained + optimizer", "activations", "in all"], Shapes().Select(s => (IReadOnlyList<string>)
                    [
                        s.Name, Size(s.Estimate.QuantizedBase + s.Estimate.DenseBase + s.Estimate.DequantizationBuffer), Size(s.Estimate.Adapter + s.Estimate.Gradients + s.Estimate.OptimizerState),
                        Size(s.Estimate.Activations), Size(s.Estimate.Total),
                    ]));
                }
            }

            return findings.All(f => f.Ok || !f.Fatal) ? 0 : 1;
        });
        return command;
    }

    /// <summary>One thing that was looked at.</summary>
    private sealed record Finding(string What, bool Ok, string Text)
    {
        /// <summary>Nothing works without it.</summary>
        public bool Fatal { get; init; }
    }

    private static void Machine(List<Finding> findings)
    {
        long memory = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;
        string vectors = Avx512F.IsSupported ? "AVX-512" : Avx2.IsSupported ? "AVX2" : RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? "NEON" : "no AVX2";
        findings.Add(new Finding("machine", true, $"{RuntimeInformation.OSDescription.Trim()}, {RuntimeInformation.ProcessArchitecture}, {Environment.ProcessorCount} cores, {vectors}, {Size(memory)} of memory"));
        findings.Add(new Finding(".NET", true, RuntimeInformation.FrameworkDescription));
    }

    private static void Libraries(List<Finding> findings)
    {
        NativeRuntime runtime;
        try
        {
            runtime = NativeRuntime.EnsureLoaded();
        }
        catch (LoraSharpException error)
        {
            findings.Add(new Finding("libtorch", false, error.Message) { Fatal = true });
            return;
        }

        findings.Add(new Finding("libtorch", true, runtime.TorchFolder + (runtime.WasMended ? " (the wrapper was mended for this machine's libstdc++)" : "")));
        GpuReport gpu = GpuReport.Read(runtime);
        if (gpu.Driver is null)
        {
            findings.Add(new Finding("GPU", true, "no NVIDIA driver: everything runs on the CPU"));
            return;
        }

        findings.Add(new Finding("driver", true, $"CUDA {gpu.Driver}"));
        foreach (string device in gpu.Devices)
        {
            findings.Add(new Finding("GPU", true, device));
        }

        if (!runtime.HasCudaLibraries)
        {
            findings.Add(new Finding("libtorch_cuda", false, $"not there: set {NativeRuntime.TorchFolderVariable} to the torch/lib folder of a PyTorch with CUDA (python3 -c \"import torch; print(torch.__path__[0] + '/lib')\"), or reference TorchSharp-cuda-linux"));
            return;
        }

        findings.Add(new Finding("libtorch_cuda", true, "loaded"));
        findings.Add(new Finding("CUDA graphs", gpu.MissingGraphSymbols.Count == 0, gpu.MissingGraphSymbols.Count == 0 ? "available" : $"this PyTorch lacks {string.Join(", ", gpu.MissingGraphSymbols)}: steps run without graphs, slower"));
        findings.Add(new Finding("NVRTC", gpu.Compiler is not null, gpu.Compiler ?? "not found: own kernels cannot be compiled, steps run by libtorch's operators. It comes with PyTorch's CUDA wheels (nvidia-cuda-nvrtc)"));
    }

    private static void Cache(List<Finding> findings)
    {
        HubCache cache = HubCache.FromEnvironment();
        IReadOnlyList<string> models = cache.Repositories();
        findings.Add(new Finding("hub cache", true, $"{cache.Folder}: {(models.Count == 0 ? "empty; lora pull org/name fills it" : string.Join(", ", models.Take(8)) + (models.Count > 8 ? $" and {models.Count - 8} more" : ""))}"));
    }

    private static MemoryForecast Predict(string path, List<Finding> findings)
    {
        var forecast = MemoryForecast.Of(RecipeReader.Read(path), Path.GetDirectoryName(Path.GetFullPath(path)));
        long available = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;
        findings.Add(new Finding("memory of the recipe", forecast.Total < available, string.Create(
            CultureInfo.InvariantCulture,
            $"about {Size(forecast.Total)} at the peak on a CPU{(forecast.Total < available ? "" : $", more than the {Size(available)} there are: a smaller batch_size or max_length, gradient_checkpointing: on, dtype: bfloat16 or method: qlora take less")}")));
        findings.Add(new Finding("", true, $"base {Size(forecast.Base)}, trained weights, gradients and optimizer {Size(forecast.Trained)}, activations {Size(forecast.Activations)} ({(forecast.Recomputes ? "computed again" : "kept")}; largest micro-batch {forecast.Rows} × {forecast.Length}), logits {Size(forecast.Logits)}, process {Size(forecast.Runtime)}"));
        if (forecast.Gpu is { } gpu)
        {
            findings.Add(new Finding("on a GPU", true, $"about {(gpu.Fused is { } fused ? $"{Size(fused)} with the fused step, " : "")}{Size(gpu.Plain)} with plain operators, in bfloat16 (counted from the tensors, not measured on this machine)"));
        }

        return forecast;
    }

    private static IEnumerable<(string Name, MemoryEstimate Estimate)> Shapes()
    {
        foreach ((string name, ModelShape shape) in ((string, ModelShape)[])[("1B", ModelShape.Llama1B), ("8B", ModelShape.Llama8B), ("65B", ModelShape.Llama65B)])
        {
            yield return ($"{name} LoRA, bfloat16", MemoryEstimate.Of(shape, null, 2, 16, 2048));
            yield return ($"{name} QLoRA, NF4 + double quantisation", MemoryEstimate.Of(shape, new QuantizationOptions(), 2, 16, 2048));
        }
    }

    private static string Size(long bytes) => bytes switch
    {
        >= 1L << 30 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 30):0.0} GiB"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 20):0.0} MiB"),
    };
}

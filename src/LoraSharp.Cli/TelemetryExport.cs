using System.CommandLine;
using LoraSharp.Formats;
using OpenTelemetry;
using OpenTelemetry.Exporter;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;

namespace LoraSharp.Cli;

/// <summary>
/// Sends a command's metrics and traces to an OpenTelemetry collector (OTLP): where the option says, or where the standard
/// environment variables do (<c>OTEL_EXPORTER_OTLP_ENDPOINT</c>, <c>_PROTOCOL</c>, <c>_HEADERS</c>, <c>OTEL_SERVICE_NAME</c>, …).
/// </summary>
internal sealed class TelemetryExport : IDisposable
{
    private static readonly string[] Variables = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"];
    private readonly TracerProvider _traces;
    private readonly MeterProvider _metrics;

    private TelemetryExport(TracerProvider traces, MeterProvider metrics)
    {
        _traces = traces;
        _metrics = metrics;
    }

    /// <summary>The option that switches it on.</summary>
    public static Option<string?> Endpoint() => new("--telemetry")
    {
        Description = "Send OpenTelemetry metrics and traces to this OTLP endpoint, e.g. http://localhost:4317 (gRPC) or http://localhost:4318 (HTTP). Without it the variable OTEL_EXPORTER_OTLP_ENDPOINT does.",
        HelpName = "URL",
    };

    /// <summary>Starts exporting; null when neither option nor environment asks for it.</summary>
    /// <param name="endpoint">Of the option.</param>
    /// <param name="source">Name of the meter and of the activity source.</param>
    /// <exception cref="LoraSharpException">The endpoint is no URL.</exception>
    public static TelemetryExport? Start(string? endpoint, string source)
    {
        if (endpoint is null && Array.TrueForAll(Variables, v => string.IsNullOrEmpty(Environment.GetEnvironmentVariable(v))))
        {
            return null;
        }

        Uri? address = null;
        if (endpoint is not null && !(Uri.TryCreate(endpoint, UriKind.Absolute, out address) && address.Scheme is "http" or "https"))
        {
            throw new LoraSharpException($"--telemetry '{endpoint}': expected the URL of an OTLP endpoint such as http://localhost:4317.");
        }

        // The collector's ports: 4318 speaks HTTP, 4317 gRPC. Paths are added by the exporter only to endpoints of the environment.
        Action<OtlpExporterOptions> At(string path) => options =>
        {
            if (address is not null)
            {
                bool http = address.Port == 4318;
                options.Protocol = http ? OtlpExportProtocol.HttpProtobuf : options.Protocol;
                options.Endpoint = http && address.AbsolutePath == "/" ? new Uri(address, path) : address;
            }
        };

        ResourceBuilder resource = ResourceBuilder.CreateDefault().AddService("lorasharp", autoGenerateServiceInstanceId: true).AddEnvironmentVariableDetector();
        return new TelemetryExport(
            Sdk.CreateTracerProviderBuilder().SetResourceBuilder(resource).AddSource(source).AddOtlpExporter(At("v1/traces")).Build(),
            Sdk.CreateMeterProviderBuilder().SetResourceBuilder(resource).AddMeter(source).AddOtlpExporter(At("v1/metrics")).Build());
    }

    /// <summary>Sends what is left, at most a few seconds.</summary>
    public void Dispose()
    {
        const int Patience = 5000;
        _traces.ForceFlush(Patience);
        _metrics.ForceFlush(Patience);
        _traces.Dispose();
        _metrics.Dispose();
    }
}

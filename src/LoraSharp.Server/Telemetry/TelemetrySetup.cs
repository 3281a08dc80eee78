using System.Diagnostics.Metrics;
using LoraSharp.Serving;
using Microsoft.Extensions.DependencyInjection;
using OpenTelemetry;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;

namespace LoraSharp.Server.Telemetry;

/// <summary>OpenTelemetry for a served model.</summary>
public static class TelemetrySetup
{
    private const string EngineName = EngineMetrics.MeterName;
    private const int MostSeries = 200;

    /// <summary>
    /// Metrics for Prometheus at <c>/metrics</c>; metrics, traces and logs by OTLP where the standard variables ask for it
    /// (<c>OTEL_EXPORTER_OTLP_ENDPOINT</c>, <c>OTEL_EXPORTER_OTLP_HEADERS</c>, <c>OTEL_SERVICE_NAME</c>, ...).
    /// </summary>
    public static IServiceCollection AddLoraSharpTelemetry(this IServiceCollection services)
    {
        OpenTelemetryBuilder telemetry = services.AddOpenTelemetry()
            .ConfigureResource(r => r.AddService(Environment.GetEnvironmentVariable("OTEL_SERVICE_NAME") is { Length: > 0 } name ? name : "lorasharp"))
            .WithMetrics(m => m.AddMeter(ServerMetrics.Name, EngineName, "Microsoft.AspNetCore.Server.Kestrel", "System.Runtime").AddView(Bound).AddPrometheusExporter())
            .WithTracing(t => t.AddSource(ServerMetrics.Name, EngineName, "Microsoft.AspNetCore"));
        if (Asked())
        {
            telemetry.WithLogging().UseOtlpExporter();
        }

        return services;
    }

    // The engine names every adapter in its tags. Beyond so many, the collector counts them together (otel_metric_overflow).
    private static MetricStreamConfiguration? Bound(Instrument instrument) => instrument.Meter.Name == EngineName ? new MetricStreamConfiguration { CardinalityLimit = MostSeries } : null;

    private static bool Asked() => new[] { "", "_METRICS", "_TRACES", "_LOGS" }.Any(kind => Environment.GetEnvironmentVariable($"OTEL_EXPORTER_OTLP{kind}_ENDPOINT") is { Length: > 0 });
}

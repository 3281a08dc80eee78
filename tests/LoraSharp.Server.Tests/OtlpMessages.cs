using Google.Protobuf;

namespace LoraSharp.Server.Tests;

/// <summary>A protobuf message without its schema: fields by number, as numbers (raw bits) or bytes.</summary>
internal sealed class ProtoMessage
{
    private readonly Dictionary<int, List<object>> _fields = [];

    public ProtoMessage(byte[] bytes)
    {
        var input = new CodedInputStream(bytes);
        uint tag;
        while ((tag = input.ReadTag()) != 0)
        {
            object value = WireFormat.GetTagWireType(tag) switch
            {
                WireFormat.WireType.Varint => input.ReadUInt64(),
                WireFormat.WireType.Fixed64 => input.ReadFixed64(),
                WireFormat.WireType.Fixed32 => (ulong)input.ReadFixed32(),
                WireFormat.WireType.LengthDelimited => input.ReadBytes().ToByteArray(),
                { } other => throw new InvalidDataException($"wire type {other}"),
            };
            int field = WireFormat.GetTagFieldNumber(tag);
            (_fields.TryGetValue(field, out List<object>? there) ? there : _fields[field] = []).Add(value);
        }
    }

    public IEnumerable<ProtoMessage> All(int field) => _fields.GetValueOrDefault(field, []).Select(v => new ProtoMessage((byte[])v));

    public bool Has(int field) => _fields.ContainsKey(field);

    public ulong Number(int field) => (ulong)_fields[field][^1];

    public string Text(int field) => _fields.TryGetValue(field, out List<object>? values) ? System.Text.Encoding.UTF8.GetString((byte[])values[^1]) : "";

    public string Hex(int field) => _fields.TryGetValue(field, out List<object>? values) ? Convert.ToHexStringLower((byte[])values[^1]) : "";

    /// <summary>Attributes (<c>KeyValue</c>, opentelemetry/proto/common/v1) of a field.</summary>
    public Dictionary<string, object?> Attributes(int field) => All(field).ToDictionary(a => a.Text(1), a => a.All(2).Select(v => v.AnyValue()).FirstOrDefault());

    // AnyValue: string 1, bool 2, int 3, double 4, array 5.
    private object? AnyValue() => Has(1) ? Text(1)
        : Has(2) ? Number(2) != 0
        : Has(3) ? (long)Number(3)
        : Has(4) ? BitConverter.UInt64BitsToDouble(Number(4))
        : Has(5) ? All(5).Single().All(1).Select(v => v.AnyValue()).ToArray()
        : null;
}

/// <summary>A span of an <c>ExportTraceServiceRequest</c> (opentelemetry/proto/trace/v1).</summary>
internal sealed record OtlpSpan(string Service, string Trace, string Id, string Parent, string Name, IReadOnlyDictionary<string, object?> Tags)
{
    public static IEnumerable<OtlpSpan> Read(byte[] request) =>
        from resource in new ProtoMessage(request).All(1)
        let service = resource.All(1).Select(r => r.Attributes(1).GetValueOrDefault("service.name") as string).FirstOrDefault() ?? ""
        from scope in resource.All(2)
        from span in scope.All(2)
        select new OtlpSpan(service, span.Hex(1), span.Hex(2), span.Hex(4), span.Text(5), span.Attributes(9));
}

/// <summary>A metric of an <c>ExportMetricsServiceRequest</c> (opentelemetry/proto/metrics/v1).</summary>
internal sealed record OtlpMetric(string Name, string Unit, IReadOnlyList<IReadOnlyDictionary<string, object?>> Points)
{
    // The attributes' number in a data point: of numbers (gauge 5, sum 7) it is 7, of histograms (9) it is 9.
    private static readonly (int Kind, int Attributes)[] Kinds = [(5, 7), (7, 7), (9, 9)];

    public static IEnumerable<OtlpMetric> Read(byte[] request) =>
        from resource in new ProtoMessage(request).All(1)
        from scope in resource.All(2)
        from metric in scope.All(2)
        select new OtlpMetric(metric.Text(1), metric.Text(3), [.. Kinds.SelectMany(k => metric.All(k.Kind).SelectMany(data => data.All(1)).Select(point => point.Attributes(k.Attributes)))]);
}

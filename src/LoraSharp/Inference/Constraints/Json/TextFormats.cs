namespace LoraSharp.Inference.Constraints.Json;

/// <summary>What JSON Schema's formats (validation vocabulary, section 7.3) look like, as expressions of the whole text.</summary>
internal static class TextFormats
{
    private const string Year = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})";
    private const string LeapYear = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)";
    private const string Date = $"(?:{Year}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|{LeapYear}-02-29)";
    private const string Time = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,7})?(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9])";
    private const string Label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?";
    private const string Octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    private const string Ipv4 = $"{Octet}(?:\\.{Octet}){{3}}";
    private const string Group = "[0-9A-Fa-f]{1,4}";
    private const string Segment = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})";
    private const string TimePart = "T(?:[0-9]{1,4}H(?:[0-9]{1,4}M(?:[0-9]{1,4}S)?)?|[0-9]{1,4}M(?:[0-9]{1,4}S)?|[0-9]{1,4}S)";

    /// <summary>The expression of a format; null for one that is not known, which by the specification says nothing.</summary>
    public static string? Find(string name) => name switch
    {
        "date" => Date,
        "time" => Time,
        "date-time" => $"{Date}T{Time}",
        "duration" => $"P(?:[0-9]{{1,4}}W|(?:[0-9]{{1,4}}Y(?:[0-9]{{1,4}}M(?:[0-9]{{1,4}}D)?)?|[0-9]{{1,4}}M(?:[0-9]{{1,4}}D)?|[0-9]{{1,4}}D)(?:{TimePart})?|{TimePart})",
        "email" => $"[A-Za-z0-9_+-]{{1,32}}(?:\\.[A-Za-z0-9_+-]{{1,30}})?@(?:{Label}\\.){{1,3}}[A-Za-z]{{2,12}}",
        "hostname" => $"(?:{Label}\\.){{0,4}}{Label}",
        "ipv4" => Ipv4,
        "ipv6" => $"(?:{Group}:){{7}}{Group}|(?:{Group}:){{1,7}}:|(?:{Group}:){{1,6}}:{Group}|(?:{Group}:){{1,5}}(?::{Group}){{1,2}}|(?:{Group}:){{1,4}}(?::{Group}){{1,3}}|(?:{Group}:){{1,3}}(?::{Group}){{1,4}}|(?:{Group}:){{1,2}}(?::{Group}){{1,5}}|{Group}:(?::{Group}){{1,6}}|:(?:(?::{Group}){{1,7}}|:)",
        "uuid" => "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}",
        "uri" => $"[A-Za-z][A-Za-z0-9+.-]{{1,11}}://(?:{Label}\\.){{0,4}}{Label}(?::[1-9][0-9]{{0,3}})?(?:/{Segment}*)*(?:\\?(?:{Segment}|[/?])*)?(?:#(?:{Segment}|[/?])*)?",
        _ => null,
    };
}

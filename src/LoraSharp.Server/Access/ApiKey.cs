using System.Security.Cryptography;
using System.Text;
using LoraSharp.Formats;

namespace LoraSharp.Server.Access;

/// <summary>A key that requests carry as <c>Authorization: Bearer KEY</c>, and what it may do. The key itself is not kept, only its hash.</summary>
public sealed record ApiKey
{
    /// <summary>What logs, metrics and errors call its holder; never the key.</summary>
    public required string Name { get; init; }

    /// <summary>SHA-256 of the key's UTF-8 bytes, as 64 lower-case hexadecimal digits.</summary>
    public required string Sha256 { get; init; }

    /// <summary>Adapters it may use: names, or beginnings of names followed by <c>*</c>. Default: all.</summary>
    public IReadOnlyList<string> Adapters { get; init; } = ["*"];

    /// <summary>Whether it may use the base model without an adapter.</summary>
    public bool Base { get; init; } = true;

    /// <summary>Whether it may load and unload adapters, see metrics and every tenant's adapters, and drain the server.</summary>
    public bool IsAdmin { get; init; }

    /// <summary>Requests a minute; 0 for no limit.</summary>
    public int RequestsPerMinute { get; init; }

    /// <summary>Tokens a minute, prompts and answers together; 0 for no limit.</summary>
    public int TokensPerMinute { get; init; }

    /// <summary>Requests under way at the same time; 0 for no limit.</summary>
    public int MaxConcurrent { get; init; }

    /// <summary>Whether it may use everything there is and nothing is counted.</summary>
    internal bool IsUnrestricted => Base && Adapters.Contains("*") && RequestsPerMinute == 0 && TokensPerMinute == 0 && MaxConcurrent == 0;

    /// <summary>A key given as text.</summary>
    /// <param name="name">Its holder.</param>
    /// <param name="key">The key.</param>
    public static ApiKey FromText(string name, string key) => new() { Name = name, Sha256 = Hash(key) };

    /// <summary>The hash under which a key is kept.</summary>
    public static string Hash(string key) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(key)));

    /// <summary>Fails with every value that is out of range.</summary>
    /// <exception cref="LoraSharpException">One or more are.</exception>
    public ApiKey Validate()
    {
        string[] faults = [.. Faults()];
        return faults.Length == 0 ? this : throw new LoraSharpException($"Key '{Name}': {string.Join("; ", faults)}.");
    }

    internal IEnumerable<string> Faults()
    {
        if (string.IsNullOrWhiteSpace(Name) || Name.Length > 100)
        {
            yield return "name: expected 1 to 100 characters";
        }

        if (Sha256.Length != 64 || !Sha256.All(char.IsAsciiHexDigitLower))
        {
            yield return "sha256: expected 64 lower-case hexadecimal digits (printf %s KEY | sha256sum)";
        }

        foreach (string pattern in Adapters.Where(a => a.Length == 0 || a[..^1].Contains('*')))
        {
            yield return $"adapters: '{pattern}': expected a name, or the beginning of names followed by *";
        }

        foreach ((string limit, int value) in ((string, int)[])[("requests_per_minute", RequestsPerMinute), ("tokens_per_minute", TokensPerMinute), ("max_concurrent", MaxConcurrent)])
        {
            if (value < 0)
            {
                yield return $"{limit} {value}: expected 0 (no limit) or more";
            }
        }
    }
}

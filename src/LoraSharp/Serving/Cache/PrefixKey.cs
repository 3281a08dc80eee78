using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace LoraSharp.Serving.Cache;

/// <summary>
/// What a full block of the cache holds: a hash over the adapter's content, every token before the block and the block's
/// own. Equal keys mean equal keys and values, whoever asked for them.
/// </summary>
/// <remarks>
/// SHA-256 and not a fast hash: blocks are shared between tenants, and one who could make two prefixes collide could read
/// another's answer out of them.
/// </remarks>
/// <param name="Upper">First half of the hash.</param>
/// <param name="Lower">Second half.</param>
internal readonly record struct PrefixKey(UInt128 Upper, UInt128 Lower)
{
    private const int Size = 32;

    /// <summary>The key before the first token.</summary>
    /// <param name="content">Hash of what computes the keys and values besides the base; empty for the base alone.</param>
    public static PrefixKey Start(ReadOnlySpan<byte> content) => Of(SHA256.HashData(content));

    /// <summary>The key of the block that follows and holds these tokens.</summary>
    public PrefixKey Next(ReadOnlySpan<int> tokens)
    {
        Span<byte> input = stackalloc byte[Size + (4 * tokens.Length)];
        BinaryPrimitives.WriteUInt128LittleEndian(input, Upper);
        BinaryPrimitives.WriteUInt128LittleEndian(input[16..], Lower);
        MemoryMarshal.AsBytes(tokens).CopyTo(input[Size..]);
        Span<byte> hash = stackalloc byte[Size];
        SHA256.HashData(input, hash);
        return Of(hash);
    }

    private static PrefixKey Of(ReadOnlySpan<byte> hash) =>
        new(BinaryPrimitives.ReadUInt128LittleEndian(hash), BinaryPrimitives.ReadUInt128LittleEndian(hash[16..]));
}

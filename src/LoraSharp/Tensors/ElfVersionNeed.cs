using System.Buffers.Binary;
using System.Text;

namespace LoraSharp.Tensors;

/// <summary>
/// Edits the version requirements of a 64-bit little-endian ELF image (System V ABI; Linux Standard Base, "Symbol
/// Versioning"). A requirement flagged VER_FLG_WEAK is a warning to the dynamic linker, not an error.
/// </summary>
internal static class ElfVersionNeed
{
    private const uint SectionTypeVersionNeed = 0x6ffffffe;
    private const ushort FlagWeak = 2;

    /// <summary>Makes the requirement on <paramref name="version"/> weak.</summary>
    /// <returns>True when the image changed; false when it has no such requirement, has it weak already, or is no ELF image.</returns>
    public static bool Weaken(Span<byte> image, string version)
    {
        if (image.Length < 64 || !image[..6].SequenceEqual(new byte[] { 0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1 }))
        {
            return false;
        }

        long table = BinaryPrimitives.ReadInt64LittleEndian(image[40..]);
        int size = BinaryPrimitives.ReadUInt16LittleEndian(image[58..]);
        int count = BinaryPrimitives.ReadUInt16LittleEndian(image[60..]);
        for (int i = 0; i < count; i++)
        {
            Span<byte> section = image[(int)(table + (i * size))..];
            if (BinaryPrimitives.ReadUInt32LittleEndian(section[4..]) == SectionTypeVersionNeed)
            {
                int link = (int)BinaryPrimitives.ReadUInt32LittleEndian(section[40..]);
                int strings = (int)BinaryPrimitives.ReadInt64LittleEndian(image[(int)(table + (link * size) + 24)..]);
                return WeakenIn(image, (int)BinaryPrimitives.ReadInt64LittleEndian(section[24..]), strings, version);
            }
        }

        return false;
    }

    private static bool WeakenIn(Span<byte> image, int need, int strings, string version)
    {
        byte[] wanted = [.. Encoding.ASCII.GetBytes(version), 0];
        for (bool more = true; more;)
        {
            int entry = need + (int)BinaryPrimitives.ReadUInt32LittleEndian(image[(need + 8)..]);
            int entries = BinaryPrimitives.ReadUInt16LittleEndian(image[(need + 2)..]);
            for (int i = 0; i < entries; i++)
            {
                int name = strings + (int)BinaryPrimitives.ReadUInt32LittleEndian(image[(entry + 8)..]);
                ushort flags = BinaryPrimitives.ReadUInt16LittleEndian(image[(entry + 4)..]);
                if (image[name..].StartsWith(wanted) && (flags & FlagWeak) == 0)
                {
                    BinaryPrimitives.WriteUInt16LittleEndian(image[(entry + 4)..], (ushort)(flags | FlagWeak));
                    return true;
                }

                entry += (int)BinaryPrimitives.ReadUInt32LittleEndian(image[(entry + 12)..]);
            }

            int next = (int)BinaryPrimitives.ReadUInt32LittleEndian(image[(need + 12)..]);
            more = next != 0;
            need += next;
        }

        return false;
    }
}

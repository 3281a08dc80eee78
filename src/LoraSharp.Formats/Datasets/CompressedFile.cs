using System.IO.Compression;
using SharpCompress.Compressors.Xz;

namespace LoraSharp.Formats.Datasets;

/// <summary>Opens a file for reading and unpacks gzip, xz and Zstandard, recognised by their first bytes whatever the name says.</summary>
public static class CompressedFile
{
    /// <summary>Extensions that only say how a file is packed.</summary>
    public static IReadOnlyList<string> Extensions { get; } = [".gz", ".xz", ".zst", ".zstd"];

    /// <summary>The bytes of the file, unpacked as they are read.</summary>
    /// <exception cref="MalformedFileException">There is no such file, or it can't be opened.</exception>
    public static Stream Open(string path)
    {
        FileStream file;
        try
        {
            file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16, FileOptions.SequentialScan);
        }
        catch (Exception error) when (error is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new MalformedFileException(path, "there is no such file.", error);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new MalformedFileException(path, $"cannot be opened ({error.Message}).", error);
        }

        try
        {
            Span<byte> magic = stackalloc byte[6];
            int read = file.ReadAtLeast(magic, magic.Length, throwOnEndOfStream: false);
            file.Position = 0;
            magic = magic[..read];
            if (magic.StartsWith<byte>([0x1f, 0x8b]))
            {
                return new GZipStream(file, CompressionMode.Decompress);
            }

            if (magic.StartsWith<byte>([0xfd, (byte)'7', (byte)'z', (byte)'X', (byte)'Z', 0]))
            {
                return new BufferedStream(new XZStream(file), 1 << 16);
            }

            return magic.StartsWith<byte>([0x28, 0xb5, 0x2f, 0xfd]) ? new ZstdSharp.DecompressionStream(file, leaveOpen: false) : file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>The file's extension in lower case without the packing: <c>.jsonl</c> of <c>rows.jsonl.gz</c>.</summary>
    public static string InnerExtension(string path)
    {
        string extension = Path.GetExtension(path).ToLowerInvariant();
        return Extensions.Contains(extension) ? Path.GetExtension(Path.GetFileNameWithoutExtension(path)).ToLowerInvariant() : extension;
    }
}

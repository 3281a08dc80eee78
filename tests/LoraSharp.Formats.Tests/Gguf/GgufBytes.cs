using System.Text;
using LoraSharp.Formats.Gguf;

namespace LoraSharp.Formats.Tests.Gguf;

/// <summary>Builds GGUF files byte by byte, wrong ones too: independent of the library's writer.</summary>
internal sealed class GgufBytes
{
    private readonly MemoryStream _keys = new();
    private readonly MemoryStream _tensors = new();
    private ulong _keyCount;
    private ulong _tensorCount;

    public uint Version { get; init; } = 3;

    public ulong? ClaimedKeys { get; init; }

    public ulong? ClaimedTensors { get; init; }

    public int DataLength { get; set; }

    public GgufBytes String(string key, string value) => Key(key, 8, w => Text(w, value));

    public GgufBytes UInt32(string key, uint value) => Key(key, 4, w => w.Write(value));

    public GgufBytes Key(string key, uint type, Action<BinaryWriter> value)
    {
        using var writer = new BinaryWriter(_keys, Encoding.UTF8, leaveOpen: true);
        Text(writer, key);
        writer.Write(type);
        value(writer);
        _keyCount++;
        return this;
    }

    public GgufBytes Tensor(string name, uint type, ulong offset, params ulong[] innermostFirst)
    {
        using var writer = new BinaryWriter(_tensors, Encoding.UTF8, leaveOpen: true);
        Text(writer, name);
        writer.Write((uint)innermostFirst.Length);
        foreach (ulong size in innermostFirst)
        {
            writer.Write(size);
        }

        writer.Write(type);
        writer.Write(offset);
        _tensorCount++;
        return this;
    }

    public byte[] ToArray()
    {
        var file = new MemoryStream();
        using var writer = new BinaryWriter(file);
        writer.Write("GGUF"u8);
        writer.Write(Version);
        writer.Write(ClaimedTensors ?? _tensorCount);
        writer.Write(ClaimedKeys ?? _keyCount);
        writer.Write(_keys.ToArray());
        writer.Write(_tensors.ToArray());
        while (file.Length % 32 != 0)
        {
            writer.Write((byte)0);
        }

        writer.Write(new byte[DataLength]);
        return file.ToArray();
    }

    public MalformedFileException Fault()
    {
        using var folder = new TemporaryFolder();
        string path = folder.File("bad.gguf");
        File.WriteAllBytes(path, ToArray());
        return Assert.Throws<MalformedFileException>(() => GgufFile.Open(path));
    }

    public static void Text(BinaryWriter writer, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        writer.Write((ulong)bytes.Length);
        writer.Write(bytes);
    }
}

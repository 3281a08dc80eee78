using System.Text;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Tests.Training.Data;

/// <summary>A tokenizer that can be read off by eye: each character is its own code, &lt;|name|&gt; is one special token.</summary>
internal sealed class CharTokenizer(bool addBos = false) : Tokenizer
{
    public const int Bos = 1;
    public const int Eos = 2;
    private const int FirstSpecial = 3;
    private static readonly string[] Specials = ["<|im_start|>", "<|im_end|>"];

    public override int VocabularySize => 0x10000;

    public override int? BosTokenId => Bos;

    public override int? EosTokenId => Eos;

    public override int? PadTokenId => null;

    public override TokenizedText EncodeWithOffsets(string text, bool addSpecialTokens = true)
    {
        List<int> ids = addSpecialTokens && addBos ? [Bos] : [];
        List<(int, int)> offsets = addSpecialTokens && addBos ? [(0, 0)] : [];
        for (int i = 0; i < text.Length;)
        {
            int special = Array.FindIndex(Specials, s => string.CompareOrdinal(text, i, s, 0, s.Length) == 0);
            int length = special < 0 ? 1 : Specials[special].Length;
            ids.Add(special < 0 ? text[i] : FirstSpecial + special);
            offsets.Add((i, i + length));
            i += length;
        }

        return new TokenizedText([.. ids], [.. offsets]);
    }

    public override string Decode(IReadOnlyList<int> ids, bool skipSpecialTokens = false)
    {
        var text = new StringBuilder();
        foreach (int id in ids)
        {
            text.Append(!IsSpecial(id) ? ((char)id).ToString() : skipSpecialTokens ? "" : IdToToken(id));
        }

        return text.ToString();
    }

    public override int? TokenToId(string token) => null;

    public override string? IdToToken(int id) => id switch { Bos => "<s>", Eos => "</s>", 3 or 4 => Specials[id - FirstSpecial], _ => ((char)id).ToString() };

    public override bool IsSpecial(int id) => id <= 4;

    public override ReadOnlyMemory<byte> TokenBytes(int id) => Encoding.UTF8.GetBytes(IdToToken(id)!);
}

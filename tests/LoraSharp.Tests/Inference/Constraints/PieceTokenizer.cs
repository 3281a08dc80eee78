using System.Text;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Tests.Inference.Constraints;

/// <summary>A vocabulary of all bytes and some longer pieces that cross what a grammar keeps apart; the last id ends a text.</summary>
internal sealed class PieceTokenizer : Tokenizer
{
    private static readonly string[] Pieces =
    [
        "{\"", "\":", "\": ", "\": \"", "\", \"", "\",\"", "\"}", "\"]", "\"}]", "}}", "]}", "}]", "},{\"", "[{\"", "[[", "]]", "[]", "{}", ", ", ",\n", "{\n  \"", "\n}",
        "true", "false", "null", "tr", "ue,", "12", "00", "1.5", "-1", "0.", "e1", "2024-0", "-02-29", "ab", "abc", "bc\"", "a\": 1", "name", "na", "me\":", "é", "日本", "\uD83D\uDE00",
        "\\", "\\n", "\\u00", "\\u", "d83d", "\\\"", "    ", "a, b", "x\": {\"", "<tool_call>", "0, 1", "00000",
    ];

    private readonly byte[][] _tokens = [.. Enumerable.Range(0, 256).Select(b => new[] { (byte)b }), .. Pieces.Select(Encoding.UTF8.GetBytes)];

    public int Eos => _tokens.Length;

    public override int VocabularySize => _tokens.Length + 1;

    public override int? BosTokenId => null;

    public override int? EosTokenId => Eos;

    public override int? PadTokenId => null;

    public override TokenizedText EncodeWithOffsets(string text, bool addSpecialTokens = true) => new([.. Encoding.UTF8.GetBytes(text).Select(b => (int)b)], []);

    public override string Decode(IReadOnlyList<int> ids, bool skipSpecialTokens = false) => Encoding.UTF8.GetString([.. ids.Where(i => i < Eos).SelectMany(i => _tokens[i])]);

    public override int? TokenToId(string token) => null;

    public override string? IdToToken(int id) => null;

    public override bool IsSpecial(int id) => id == Eos;

    public override ReadOnlyMemory<byte> TokenBytes(int id) => id == Eos ? "</s>"u8.ToArray() : _tokens[id];
}

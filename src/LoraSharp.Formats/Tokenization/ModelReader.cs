using System.Runtime.CompilerServices;
using System.Text.Json;
using LoraSharp.Formats.Tokenization.Models;

namespace LoraSharp.Formats.Tokenization;

/// <summary>Reads the "model" object of <c>tokenizer.json</c> without making a string of every token.</summary>
internal sealed class ModelReader
{
    private readonly Vocabulary.Builder _vocabulary = new();
    private readonly List<double> _scores = [];
    private byte[] _left = new byte[256];
    private byte[] _right = new byte[256];
    private string? _type;
    private string? _unknownToken;
    private string? _prefix;
    private string? _suffix;
    private bool _fuseUnknown;
    private bool _byteFallback;
    private bool _ignoreMerges;
    private int? _unknownId;
    private int _longestWord = 100;
    private int _vocabularyAt = -1;
    private int _mergesAt = -1;
    private bool _scored;

    /// <summary>Reads the object that the reader stands on.</summary>
    public TokenModel Read(ReadOnlySpan<byte> utf8, ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            throw new FormatException("\"model\" is no object");
        }

        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            reader.Read();
            if (name == "vocab")
            {
                _vocabularyAt = (int)reader.TokenStartIndex;
                ReadVocabulary(ref reader);
            }
            else if (name == "merges")
            {
                // Merges need the whole vocabulary and the prefix, which may come later.
                _mergesAt = (int)reader.TokenStartIndex;
                reader.Skip();
            }
            else
            {
                ReadField(name, ref reader);
            }
        }

        if (_vocabularyAt < 0)
        {
            throw new FormatException("\"model\" has no \"vocab\"");
        }

        return Build(utf8);
    }

    private void ReadField(string name, ref Utf8JsonReader reader)
    {
        switch (name)
        {
            case "type":
                _type = reader.GetString();
                break;
            case "unk_token":
                _unknownToken = reader.GetString();
                break;
            case "unk_id":
                _unknownId = reader.TokenType == JsonTokenType.Null ? null : reader.GetInt32();
                break;
            case "continuing_subword_prefix":
                _prefix = reader.GetString();
                break;
            case "end_of_word_suffix":
                _suffix = reader.GetString();
                break;
            case "fuse_unk":
                _fuseUnknown = reader.TokenType == JsonTokenType.True;
                break;
            case "byte_fallback":
                _byteFallback = reader.TokenType == JsonTokenType.True;
                break;
            case "ignore_merges":
                _ignoreMerges = reader.TokenType == JsonTokenType.True;
                break;
            case "max_input_chars_per_word":
                _longestWord = reader.GetInt32();
                break;
            default:
                reader.Skip();
                break;
        }
    }

    private TokenModel Build(ReadOnlySpan<byte> utf8)
    {
        Vocabulary vocabulary = _vocabulary.Build();
        string type = _type ?? (_scored ? "Unigram" : _mergesAt >= 0 ? "BPE" : _prefix is not null ? "WordPiece" : "WordLevel");
        switch (type)
        {
            case "BPE":
                if (_mergesAt < 0)
                {
                    throw new FormatException("the BPE model has no \"merges\"");
                }

                return new BpeModel(vocabulary, ReadMerges(utf8[_mergesAt..], vocabulary), new BpeOptions
                {
                    UnknownToken = _unknownToken,
                    ContinuingSubwordPrefix = _prefix,
                    EndOfWordSuffix = _suffix,
                    FuseUnknown = _fuseUnknown,
                    ByteFallback = _byteFallback,
                    IgnoreMerges = _ignoreMerges,
                });
            case "Unigram" when _scored:
                if (_unknownId >= _scores.Count)
                {
                    throw new FormatException($"\"unk_id\" is {_unknownId}, but there are {_scores.Count} tokens");
                }

                return new UnigramModel(vocabulary, [.. _scores], _unknownId ?? -1, _byteFallback);
            case "WordPiece":
                return new WordPieceModel(vocabulary, _unknownToken ?? "[UNK]", _prefix ?? "##", _longestWord);
            case "WordLevel":
                return new WordLevelModel(vocabulary, _unknownToken ?? "<unk>");
            default:
                throw new FormatException($"model type '{type}' is not known; expected BPE, Unigram, WordPiece or WordLevel");
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void ReadVocabulary(ref Utf8JsonReader reader)
    {
        if (reader.TokenType == JsonTokenType.StartArray)
        {
            ReadScoredVocabulary(ref reader);
            return;
        }

        if (reader.TokenType != JsonTokenType.StartObject)
        {
            throw new FormatException("\"vocab\" is neither an object nor an array");
        }

        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            ReadOnlySpan<byte> token = Text(ref reader, ref _left);
            reader.Read();
            _vocabulary.Add(token, reader.GetInt32());
        }
    }

    private void ReadScoredVocabulary(ref Utf8JsonReader reader)
    {
        _scored = true;
        while (reader.Read() && reader.TokenType == JsonTokenType.StartArray)
        {
            reader.Read();
            ReadOnlySpan<byte> token = Text(ref reader, ref _left);
            _vocabulary.Add(token, _scores.Count);
            reader.Read();
            _scores.Add(reader.GetDouble());
            reader.Read();
            if (reader.TokenType != JsonTokenType.EndArray)
            {
                throw new FormatException($"entry {_scores.Count - 1} of \"vocab\" is no [token, score]");
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private MergeTable ReadMerges(ReadOnlySpan<byte> utf8, Vocabulary vocabulary)
    {
        // The slice begins at the array; what follows it in the file is never looked at.
        var reader = new Utf8JsonReader(utf8, isFinalBlock: false, state: default);
        if (!reader.Read() || reader.TokenType != JsonTokenType.StartArray)
        {
            throw new FormatException("\"merges\" is no array");
        }

        var builder = new MergeBuilder(vocabulary, _prefix);
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (reader.TokenType == JsonTokenType.StartArray)
            {
                reader.Read();
                ReadOnlySpan<byte> left = Text(ref reader, ref _left);
                reader.Read();
                builder.Add(left, Text(ref reader, ref _right));
                reader.Read();
                continue;
            }

            ReadOnlySpan<byte> line = Text(ref reader, ref _left);
            builder.AddLine(line);
        }

        return builder.Build();
    }

    private static ReadOnlySpan<byte> Text(ref Utf8JsonReader reader, ref byte[] buffer)
    {
        if (reader.TokenType is not (JsonTokenType.String or JsonTokenType.PropertyName))
        {
            throw new FormatException($"expected a string, found {reader.TokenType}");
        }

        if (!reader.ValueIsEscaped)
        {
            return reader.ValueSpan;
        }

        if (buffer.Length < reader.ValueSpan.Length)
        {
            buffer = new byte[reader.ValueSpan.Length];
        }

        return buffer.AsSpan(0, reader.CopyString(buffer));
    }
}

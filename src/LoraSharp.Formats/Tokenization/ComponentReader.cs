using System.Text.Json.Nodes;
using LoraSharp.Formats.Tokenization.Decoders;
using LoraSharp.Formats.Tokenization.Normalizers;
using LoraSharp.Formats.Tokenization.Patterns;
using LoraSharp.Formats.Tokenization.PostProcessors;
using LoraSharp.Formats.Tokenization.PreTokenizers;

namespace LoraSharp.Formats.Tokenization;

/// <summary>Builds normalizers, pre-tokenizers, post-processors and decoders from their JSON objects.</summary>
internal static class ComponentReader
{
    public static Normalizer? Normalizer(JsonNode? node, string source)
    {
        if (node is null)
        {
            return null;
        }

        var json = new Component(node, "normalizer", source);
        return json.Type switch
        {
            "Sequence" => new SequenceNormalizer(json.Children("normalizers", child => Normalizer(child, source)!)),
            "NFC" => new UnicodeFormNormalizer(System.Text.NormalizationForm.FormC),
            "NFD" => new UnicodeFormNormalizer(System.Text.NormalizationForm.FormD),
            "NFKC" => new UnicodeFormNormalizer(System.Text.NormalizationForm.FormKC),
            "NFKD" => new UnicodeFormNormalizer(System.Text.NormalizationForm.FormKD),
            "Lowercase" => new LowercaseNormalizer(),
            "Strip" => new StripNormalizer(json.Flag("strip_left"), json.Flag("strip_right")),
            "StripAccents" => new StripAccentsNormalizer(),
            "Replace" => new ReplaceNormalizer(json.Pattern(), json.Text("content")),
            "Prepend" => new PrependNormalizer(json.Text("prepend")),
            "BertNormalizer" => new BertNormalizer(
                json.Flag("clean_text", true), json.Flag("handle_chinese_chars", true), json.OptionalFlag("strip_accents"), json.Flag("lowercase", true)),
            "Precompiled" => PrecompiledNormalizer.FromBase64(json.Text("precompiled_charsmap")),
            "ByteLevel" => new ByteLevelNormalizer(),
            "Nmt" => new NmtNormalizer(),
            _ => throw json.Unknown("Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents, Replace, Prepend, BertNormalizer, Precompiled, ByteLevel, Nmt"),
        };
    }

    public static PreTokenizer? PreTokenizer(JsonNode? node, string source)
    {
        if (node is null)
        {
            return null;
        }

        var json = new Component(node, "pre_tokenizer", source);
        return json.Type switch
        {
            "Sequence" => Flatten(json.Children("pretokenizers", child => PreTokenizer(child, source)!)),
            "ByteLevel" => new ByteLevelPreTokenizer(json.Flag("add_prefix_space", true), json.Flag("use_regex", true)),
            "Split" => new PatternSplitter(json.Pattern(), json.Behavior(null), json.Flag("invert", false)),
            "Metaspace" => new MetaspacePreTokenizer(json.Text("replacement"), json.PrependScheme(), json.Flag("split", true)),
            "Whitespace" => SplitterKinds.Whitespace(),
            "WhitespaceSplit" => SplitterKinds.WhitespaceSplit(),
            "Digits" => SplitterKinds.Digits(json.Flag("individual_digits", false)),
            "Punctuation" => SplitterKinds.Punctuation(json.Behavior(SplitBehavior.Isolated)),
            "BertPreTokenizer" => new SequencePreTokenizer([SplitterKinds.WhitespaceSplit(), SplitterKinds.Punctuation(SplitBehavior.Isolated)]),
            "CharDelimiterSplit" or "Delimiter" => SplitterKinds.Delimiter(CodePoints.At(json.Text("delimiter"), 0, out _)),
            "UnicodeScripts" => new UnicodeScriptsSplitter(),
            "FixedLength" => new FixedLengthSplitter(Math.Max(1, json.Number("length", 5))),
            _ => throw json.Unknown("Sequence, ByteLevel, Split, Metaspace, Whitespace, WhitespaceSplit, Digits, Punctuation, BertPreTokenizer, CharDelimiterSplit, UnicodeScripts, FixedLength"),
        };
    }

    public static PostProcessor? PostProcessor(JsonNode? node, string source)
    {
        if (node is null)
        {
            return null;
        }

        var json = new Component(node, "post_processor", source);
        switch (json.Type)
        {
            case "Sequence":
                return new SequencePostProcessor(json.Children("processors", child => PostProcessor(child, source)!));
            case "ByteLevel":
                return new ByteLevelPostProcessor(json.Flag("add_prefix_space", true), json.Flag("trim_offsets", true));
            case "TemplateProcessing":
                return new TemplatePostProcessor(json.Template("single", texts: 1), json.Template("pair", texts: 2));
            case "BertProcessing":
                return new PairPostProcessor(json.TokenPair("cls"), json.TokenPair("sep"), doubled: false);
            case "RobertaProcessing":
                return new PairPostProcessor(json.TokenPair("cls"), json.TokenPair("sep"), doubled: true)
                {
                    TrimOffsets = json.Flag("trim_offsets", true),
                    AddPrefixSpace = json.Flag("add_prefix_space", true),
                };
            default:
                throw json.Unknown("Sequence, ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing");
        }
    }

    public static TokenDecoder? Decoder(JsonNode? node, string source)
    {
        if (node is null)
        {
            return null;
        }

        var json = new Component(node, "decoder", source);
        return json.Type switch
        {
            "Sequence" => new SequenceDecoder(json.Children("decoders", child => Decoder(child, source)!)),
            "ByteLevel" => new ByteLevelDecoder(),
            "ByteFallback" => new ByteFallbackDecoder(),
            "Fuse" => new FuseDecoder(),
            "Strip" => new StripDecoder(json.Text("content"), json.Number("start", 0), json.Number("stop", 0)),
            "Replace" => new ReplaceDecoder(json.Pattern(), json.Text("content")),
            "Metaspace" => new MetaspaceDecoder(json.Text("replacement"), json.PrependScheme() != PreTokenizers.PrependScheme.Never),
            "WordPiece" => new WordPieceDecoder(json.Text("prefix"), json.Flag("cleanup", true)),
            "BPEDecoder" => new BpeDecoder(json.Text("suffix")),
            "CTC" => new CtcDecoder(json.Text("pad_token"), json.Text("word_delimiter_token"), json.Flag("cleanup", true)),
            _ => throw json.Unknown("Sequence, ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece, BPEDecoder, CTC"),
        };
    }

    private static SequencePreTokenizer Flatten(IReadOnlyList<PreTokenizer> steps)
    {
        var flat = new List<PreTokenizer>();
        foreach (PreTokenizer step in steps)
        {
            flat.AddRange(step is SequencePreTokenizer nested ? nested.Steps : [step]);
        }

        return new SequencePreTokenizer(flat);
    }
}

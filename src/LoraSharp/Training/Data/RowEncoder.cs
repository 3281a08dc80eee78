using System.Text.Json.Nodes;
using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Training.Data;

/// <summary>What became of a row.</summary>
/// <param name="Examples">Its examples: one, several where a long text was split, two (chosen, rejected) of a preference row, none when dropped.</param>
/// <param name="Dropped">Why there are none; null when there are.</param>
/// <param name="CutTokens">Tokens that did not fit and are lost.</param>
/// <param name="Notes">Things worth saying about the row, counted by their text.</param>
public sealed record EncodedRow(IReadOnlyList<TrainingExample> Examples, string? Dropped = null, int CutTokens = 0, IReadOnlyList<string>? Notes = null)
{
    /// <summary>Of a KTO row whether its answer is a good one.</summary>
    public bool Desirable { get; init; }
}

/// <summary>
/// Rows to tokens and labels. Prompt and completion are tokenized apart, so that the border between them is the same in
/// training and in generation, and the completion ends with the model's EOS; BOS comes first where the tokenizer adds one.
/// Immutable and safe for concurrent use.
/// </summary>
public sealed class RowEncoder
{
    private readonly Tokenizer? _tokenizer;
    private readonly ChatEncoder? _chat;
    private readonly DataOptions _options;
    private readonly int[] _prefix;
    private readonly int[] _end;

    /// <summary>Creates an encoder.</summary>
    /// <param name="tokenizer">The model's tokenizer; null when there is none, which tokenized rows alone can do with.</param>
    /// <param name="chat">The model's chat template; null when it has none.</param>
    /// <param name="options">Length, what to train on, prompt style.</param>
    public RowEncoder(Tokenizer? tokenizer, ChatRenderer? chat, DataOptions options)
    {
        _tokenizer = tokenizer;
        _options = options;
        _chat = tokenizer is null || chat is null ? null : new ChatEncoder(tokenizer, chat, options.TrainOn);
        // What the post-processor puts before a text, seen on the empty one: BOS, or nothing.
        int[] special = tokenizer?.Encode("") ?? [];
        _prefix = tokenizer?.BosTokenId is { } bos && special.Length > 0 && special[0] == bos ? [bos] : [];
        _end = tokenizer?.EosTokenId is { } eos ? [eos] : [];
    }

    /// <summary>Tokens and labels of a row.</summary>
    /// <exception cref="DatasetException">The row can't be encoded: no chat template, or the template refuses it.</exception>
    public EncodedRow Encode(DatasetRow row, RowContent content)
    {
        switch (content)
        {
            case TokenizedContent tokenized:
                return Finish(row, Tokenized(row, tokenized), null, keep: true);
            case PreferenceContent preference:
                return Pair(row, preference);
            case KtoContent kto:
                return Encode(row, kto.Answer) with { Desirable = kto.Desirable };
            default:
                List<string>? notes = null;
                TrainingExample? example = Build(row, content, ref notes, out string? dropped);
                return example is null ? new EncodedRow([], dropped, 0, notes) : Finish(row, example, notes, keep: false);
        }
    }

    /// <summary>Token ids of the prompt alone, as the model sees it before it answers: for generation.</summary>
    /// <returns>The ids, and the answers that count as right (one or several).</returns>
    /// <exception cref="DatasetException">The row has no prompt to answer.</exception>
    public (int[] PromptIds, IReadOnlyList<string> References) EncodePrompt(DatasetRow row, RowContent content)
    {
        switch (content)
        {
            case AlpacaContent alpaca when _options.PromptStyle == PromptStyle.Plain:
                List<Segment> segments = Segments(alpaca);
                return (Tokens(row, segments.Take(segments.Count - 1)), [alpaca.Output]);
            case PromptContent prompt when _options.PromptStyle == PromptStyle.Plain:
                return (Tokens(row, [new Segment(prompt.Prompt, false, false)]), prompt.References ?? [prompt.Completion]);
            case AlpacaContent or PromptContent or ChatContent:
                ChatContent chat = content as ChatContent ?? AsChat(content);
                return (Chat(row).EncodePrompt(row, chat, out string answer), content is PromptContent { References: { } references } ? references : [answer]);
            case PreferenceContent preference:
                return EncodePrompt(row, preference.Chosen);
            case KtoContent kto:
                return EncodePrompt(row, kto.Answer);
            default:
                throw new DatasetException(row, "the row has no prompt to answer. Expected prompt and completion, instruction and output, or messages.");
        }
    }

    private EncodedRow Pair(DatasetRow row, PreferenceContent preference)
    {
        List<string>? notes = null;
        TrainingExample? chosen = Build(row, preference.Chosen, ref notes, out string? dropped);
        TrainingExample? rejected = chosen is null ? null : Build(row, preference.Rejected, ref notes, out dropped);
        if (chosen is null || rejected is null)
        {
            return new EncodedRow([], dropped, 0, notes);
        }

        EncodedRow[] halves = [Finish(row, chosen, notes, keep: false, split: false), Finish(row, rejected, null, keep: false, split: false)];
        return halves.FirstOrDefault(h => h.Dropped is not null) is { } faulty
            ? new EncodedRow([], faulty.Dropped, 0, notes)
            : new EncodedRow([halves[0].Examples[0], halves[1].Examples[0]], null, halves.Sum(h => h.CutTokens), notes);
    }

    private TrainingExample? Build(DatasetRow row, RowContent content, ref List<string>? notes, out string? dropped)
    {
        dropped = null;
        switch (content)
        {
            case TextContent text when string.IsNullOrWhiteSpace(text.Text):
                dropped = "the text is empty";
                return null;
            case TextContent text:
                return Join(row, [new Segment(text.Text, true, true)]);
            case PromptContent prompt when string.IsNullOrWhiteSpace(prompt.Completion):
            case AlpacaContent alpaca when string.IsNullOrWhiteSpace(alpaca.Output):
                dropped = "the completion is empty";
                return null;
            case PromptContent prompt when _options.PromptStyle == PromptStyle.Plain:
                return Join(row, [new Segment(prompt.Prompt, false, false), new Segment(prompt.Completion, true, true)]);
            case AlpacaContent alpaca when _options.PromptStyle == PromptStyle.Plain:
                return Join(row, Segments(alpaca));
            case PromptContent or AlpacaContent or ChatContent:
                return Chat(row).Encode(row, content as ChatContent ?? AsChat(content), ref notes, out dropped);
            default:
                throw new DatasetException(row, $"a row of kind {content.GetType().Name} holds no text.");
        }
    }

    private ChatEncoder Chat(DatasetRow row) => _chat ?? throw new DatasetException(row, _tokenizer is null ? NoTokenizer
        : "the row is a conversation, and the model has no chat template. Use a model that has one (chat_template in tokenizer_config.json), put a chat_template.jinja into the model's folder, or bring the rows into prompt and completion.");

    private const string NoTokenizer = "the row is text, and the model's folder has no tokenizer (" + TokenizerLoader.Expected + "). Without one only rows with input_ids can be trained on.";

    private static List<Segment> Segments(AlpacaContent row)
    {
        List<Segment> segments = [];
        if (row.System is { Length: > 0 } system)
        {
            segments.Add(new Segment(system + "\n\n", false, false));
        }

        foreach ((string instruction, string output) in row.History)
        {
            segments.Add(new Segment(AlpacaPrompt.Format(instruction), false, false));
            segments.Add(new Segment(output, false, true));
        }

        segments.Add(new Segment(AlpacaPrompt.Format(row.Instruction, row.Input), false, false));
        segments.Add(new Segment(row.Output, true, true));
        return segments;
    }

    private static ChatContent AsChat(RowContent content)
    {
        var messages = new JsonArray();
        void Add(string role, string text) => messages.Add(new JsonObject { ["role"] = role, ["content"] = text });
        if (content is PromptContent prompt)
        {
            Add("user", prompt.Prompt);
            Add("assistant", prompt.Completion);
        }
        else if (content is AlpacaContent alpaca)
        {
            if (alpaca.System is { Length: > 0 } system)
            {
                Add("system", system);
            }

            foreach ((string instruction, string output) in alpaca.History)
            {
                Add("user", instruction);
                Add("assistant", output);
            }

            Add("user", alpaca.Input.Length > 0 ? $"{alpaca.Instruction}\n{alpaca.Input}" : alpaca.Instruction);
            Add("assistant", alpaca.Output);
        }

        return new ChatContent(messages, new float?[messages.Count], 0, []);
    }

    private int[] Tokens(DatasetRow row, IEnumerable<Segment> segments) => Join(row, [.. segments]).InputIds;

    private TrainingExample Join(DatasetRow row, IReadOnlyList<Segment> segments)
    {
        Tokenizer tokenizer = _tokenizer ?? throw new DatasetException(row, NoTokenizer);
        List<int> ids = [.. _prefix];
        List<int> labels = [.. _prefix.Select(id => _options.TrainOn == TrainOn.All ? id : TrainingExample.Ignored)];
        foreach (Segment segment in segments)
        {
            int start = ids.Count;
            ids.AddRange(segment.Text.Length > 0 ? tokenizer.Encode(segment.Text, addSpecialTokens: false) : []);
            ids.AddRange(segment.Ends ? _end : []);
            bool trained = segment.IsTrained || _options.TrainOn == TrainOn.All;
            for (int i = start; i < ids.Count; i++)
            {
                labels.Add(trained ? ids[i] : TrainingExample.Ignored);
            }
        }

        return new TrainingExample { InputIds = [.. ids], Labels = [.. labels], Origin = row.Origin.ToString() };
    }

    private TrainingExample Tokenized(DatasetRow row, TokenizedContent content)
    {
        int count = content.InputIds.Length;
        if (_options.TrimPadding && content.AttentionMask is { } mask)
        {
            count = Array.LastIndexOf(mask, true) + 1;
        }

        int[] labels = content.Labels ?? [.. content.InputIds.Select((id, i) => content.AttentionMask?[i] == false ? TrainingExample.Ignored : id)];
        bool padded = content.AttentionMask is { } attention && attention.AsSpan(0, count).Contains(false);
        return count == 0 ? throw new DatasetException(row, "the row has no tokens.")
            : new TrainingExample { InputIds = content.InputIds[..count], Labels = labels[..count], Attended = padded ? content.AttentionMask![..count] : null, Origin = row.Origin.ToString() };
    }

    private EncodedRow Finish(DatasetRow row, TrainingExample example, List<string>? notes, bool keep, bool split = true)
    {
        RequireKnown(row, example, keep);
        int longest = _options.MaxLength;
        int length = example.InputIds.Length;
        if (length > longest && _options.LongRows == LongRows.Drop)
        {
            return new EncodedRow([], $"longer than max_length ({longest} tokens)", 0, notes);
        }

        List<TrainingExample> parts = [];
        int cut = 0;
        if (length <= longest)
        {
            parts.Add(example);
        }
        else if (_options.LongRows == LongRows.Split && split)
        {
            for (int start = 0; start < length; start += longest)
            {
                parts.Add(Slice(example, start, Math.Min(length, start + longest)));
            }
        }
        else
        {
            parts.Add(Slice(example, 0, longest));
            cut = length - longest;
        }

        // Tokenized rows stay where they are even when they teach nothing: the user laid out the micro-batches.
        if (!keep)
        {
            parts.RemoveAll(p => p.TargetTokens == 0);
        }

        return parts.Count > 0 ? new EncodedRow(parts, null, cut, notes)
            : new EncodedRow([], cut > 0 ? $"nothing to train on is left within max_length ({longest} tokens)" : "no token is trained on", cut, notes);
    }

    private void RequireKnown(DatasetRow row, TrainingExample example, bool tokenized)
    {
        long size = _options.VocabularySize;
        int largest = example.InputIds.DefaultIfEmpty().Max();
        if (size > 0 && largest >= size)
        {
            throw new DatasetException(row, tokenized
                ? $"'input_ids' holds {largest}. Expected ids below {size}, the model's vocabulary: the rows were tokenized for another model."
                : $"the tokenizer gives the id {largest}, but the model's table has {size} rows. Expected a tokenizer that belongs to the model.");
        }

        if (tokenized && example.Labels.FirstOrDefault(l => l != TrainingExample.Ignored && (l < 0 || (size > 0 && l >= size))) is var wrong && wrong != 0)
        {
            throw new DatasetException(row, $"'labels' holds {wrong}. Expected {(size > 0 ? $"ids below {size}" : "ids from 0")}, or {TrainingExample.Ignored} where nothing is trained.");
        }
    }

    private static TrainingExample Slice(TrainingExample example, int start, int end) => example with
    {
        InputIds = example.InputIds[start..end],
        Labels = example.Labels[start..end],
        Weights = example.Weights?[start..end],
        Attended = example.Attended?[start..end],
    };

    private readonly record struct Segment(string Text, bool IsTrained, bool Ends);
}

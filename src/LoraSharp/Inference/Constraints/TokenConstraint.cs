using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using LoraSharp.Formats;
using LoraSharp.Inference.Constraints.Json;

namespace LoraSharp.Inference.Constraints;

/// <summary>
/// A form that a generated text must have, ready for one vocabulary: made by <see cref="ConstraintCompiler"/>, given in
/// <see cref="SamplingOptions.Constraint"/>. It may be shared by any number of requests on any threads, and the more it is
/// used the less a step costs.
/// </summary>
public sealed class TokenConstraint
{
    private readonly Lock _gate = new();
    private readonly TokenMasks _masks;
    private readonly int[] _ends;

    internal TokenConstraint(Grammar grammar, TokenVocabulary vocabulary, IEnumerable<int> endTokens, bool isJson, int mostMasks)
    {
        Grammar = grammar;
        Vocabulary = vocabulary;
        IsJson = isJson;
        _masks = new TokenMasks(grammar, vocabulary, mostMasks);
        _ends = [.. endTokens.Where(t => t >= 0).Distinct()];
    }

    /// <summary>Tokens that end the text where it may end.</summary>
    public IReadOnlyList<int> EndTokens => _ends;

    internal Grammar Grammar { get; }

    internal TokenVocabulary Vocabulary { get; }

    /// <summary>Whether the text is JSON, whose objects must not name a property twice.</summary>
    internal bool IsJson { get; }

    /// <summary>What of a JSON text stands before the generated one.</summary>
    internal byte[] Opening { get; init; } = [];

    internal void Collect(GrammarItems items, Span<ulong> mask)
    {
        lock (_gate)
        {
            _masks.Collect(items, mask);
        }
    }
}

/// <summary>One text on its way through a <see cref="TokenConstraint"/>.</summary>
internal sealed class ConstraintState
{
    private readonly TokenConstraint _constraint;
    private readonly ulong[] _mask;
    private readonly JsonKeys? _keys;
    private GrammarItems _items = new();
    private GrammarItems _next = new();
    private bool _masked;
    private bool _ended;

    public ConstraintState(TokenConstraint constraint)
    {
        _constraint = constraint;
        _keys = constraint.IsJson ? new JsonKeys() : null;
        _keys?.Accept(constraint.Opening);
        int largest = constraint.EndTokens.DefaultIfEmpty(0).Max();
        _mask = new ulong[(Math.Max(constraint.Vocabulary.Size, largest + 1) + 63) / 64];
        GrammarRun.Start(constraint.Grammar, _items);
    }

    /// <summary>Whether nothing can follow.</summary>
    public bool HasEnded => _ended || (_items.IsComplete && !_items.All.Exists(i => _constraint.Grammar.Rule(i.Rule).Automaton.HasBytes(i.State)));

    /// <summary>Makes the logits of the tokens that must not follow minus infinity.</summary>
    /// <exception cref="LoraSharpException">The vocabulary has no token that may follow.</exception>
    public void Apply(Span<float> logits)
    {
        Fill();
        bool any = false;
        for (int word = 0; word * 64 < logits.Length; word++)
        {
            ulong bits = word < _mask.Length ? _mask[word] : 0;
            Span<float> part = logits.Slice(word * 64, Math.Min(64, logits.Length - (word * 64)));
            if (bits == 0)
            {
                part.Fill(float.NegativeInfinity);
                continue;
            }

            any |= part.Length == 64 || (bits << (64 - part.Length)) != 0;
            Mask(part, bits);
        }

        if (!any)
        {
            throw new LoraSharpException("The constraint cannot be met: no token of the vocabulary can follow the text so far.");
        }
    }

    // Sixteen at a time and without a branch on a bit: in a mask that lets through every second token no guess is right.
    private static void Mask(Span<float> logits, ulong bits)
    {
        Vector512<uint> places = Vector512.Create(1u, 1u << 1, 1u << 2, 1u << 3, 1u << 4, 1u << 5, 1u << 6, 1u << 7, 1u << 8, 1u << 9, 1u << 10, 1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15);
        Vector512<float> none = Vector512.Create(float.NegativeInfinity), least = Vector512.Create(float.MinValue);
        ref float first = ref MemoryMarshal.GetReference(logits);
        int i = 0;
        for (; i + 16 <= logits.Length; i += 16, bits >>= 16)
        {
            Vector512<float> value = Vector512.LoadUnsafe(ref first, (nuint)i);
            Vector512<float> kept = Vector512.ConditionalSelect(Vector512.GreaterThan(value, none), value, least);
            Vector512<uint> allowed = Vector512.Equals(Vector512.Create((uint)bits) & places, places);
            Vector512.ConditionalSelect(allowed.AsSingle(), kept, none).StoreUnsafe(ref first, (nuint)i);
        }

        for (; i < logits.Length; i++, bits >>= 1)
        {
            logits[i] = (bits & 1) == 0 ? float.NegativeInfinity : logits[i] > float.NegativeInfinity ? logits[i] : float.MinValue;
        }
    }

    /// <summary>Whether a token that the mask lets through must not come after all: it would name a property for the second time.</summary>
    /// <remarks>It is then left out of the mask until the next token is accepted.</remarks>
    public bool Vetoes(int token)
    {
        if (_keys is null || _constraint.EndTokens.Contains(token) || _keys.Allow(_constraint.Vocabulary.Bytes(token)))
        {
            return false;
        }

        _mask[token >> 6] &= ~(1UL << (token & 63));
        return true;
    }

    /// <summary>Takes the token that was chosen.</summary>
    /// <exception cref="LoraSharpException">It may not follow.</exception>
    public void Accept(int token)
    {
        _masked = false;
        if (_constraint.EndTokens.Contains(token))
        {
            _ended = _items.IsComplete ? true : throw Refused(token);
            return;
        }

        ReadOnlySpan<byte> bytes = _constraint.Vocabulary.Bytes(token);
        foreach (byte value in bytes)
        {
            GrammarRun.Step(_constraint.Grammar, _items.All, value, _next);
            (_items, _next) = (_next, _items);
        }

        if (bytes.Length == 0 || _items.IsEmpty)
        {
            throw Refused(token);
        }

        _keys?.Accept(bytes);
    }

    private void Fill()
    {
        if (_masked)
        {
            return;
        }

        _masked = true;
        Array.Clear(_mask);
        _constraint.Collect(_items, _mask);
        if (_items.IsComplete)
        {
            foreach (int end in _constraint.EndTokens)
            {
                Allow(end);
            }
        }
        else
        {
            foreach (int end in _constraint.EndTokens)
            {
                _mask[end >> 6] &= ~(1UL << (end & 63));
            }
        }

        void Allow(int token) => _mask[token >> 6] |= 1UL << (token & 63);
    }

    private static LoraSharpException Refused(int token) => new($"Token {token} does not fit the constraint of its text.");
}

using System.Globalization;

namespace LoraSharp.Inference.Constraints.Json;

/// <summary>Bounds of a number.</summary>
internal sealed record NumberBounds(decimal? Least, bool LeastIsOutside, decimal? Most, bool MostIsOutside)
{
    /// <summary>Whether there are any.</summary>
    public bool Any => Least is not null || Most is not null;
}

/// <summary>
/// Numbers within bounds, digit by digit: as long as the digits so far are those of a bound, the next must not pass the
/// bound's; once they differ any digit will do.
/// </summary>
internal sealed class NumberAutomaton
{
    /// <summary>Most digits before the point: they fit into 64 bits.</summary>
    public const int MostDigits = 18;

    /// <summary>Most digits behind the point: what a double can tell apart.</summary>
    public const int MostFraction = 15;

    private readonly Nfa _nfa;
    private readonly int _to;
    private readonly int _mostFraction;
    private readonly Side _low;
    private readonly Side _high;
    private readonly Dictionary<(int Length, int At, bool Low, bool High), int> _whole = [];
    private readonly Dictionary<(int At, bool Low, bool High), int> _fraction = [];

    private NumberAutomaton(Nfa nfa, int to, Side low, Side high, int mostFraction)
    {
        (_nfa, _to, _low, _high) = (nfa, to, low, high);
        _mostFraction = mostFraction == 0 ? 0 : Math.Max(mostFraction, Math.Max(low.Fraction.Length, high.Fraction.Length) + 1);
    }

    /// <summary>Numbers between two states of an automaton.</summary>
    /// <param name="nfa">Where to.</param>
    /// <param name="from">State before the number.</param>
    /// <param name="to">State behind it.</param>
    /// <param name="bounds">Its bounds.</param>
    /// <param name="fraction">Most digits behind the point; 0 for whole numbers.</param>
    public static void Add(Nfa nfa, int from, int to, NumberBounds bounds, int fraction)
    {
        if (!bounds.Any && fraction == MostFraction)
        {
            AddAny(nfa, from, to);
            return;
        }

        decimal limit = 1;
        for (int i = 0; i < MostDigits; i++)
        {
            limit *= 10;
        }

        (decimal least, bool leastOut) = bounds.Least is { } l && l > -limit ? (l, bounds.LeastIsOutside) : (-limit, true);
        (decimal most, bool mostOut) = bounds.Most is { } m && m < limit ? (m, bounds.MostIsOutside) : (limit, true);
        if (most >= 0)
        {
            AddMagnitude(nfa, from, to, Math.Max(least, 0), least >= 0 && leastOut, most, mostOut, fraction);
        }

        if (least < 0)
        {
            // -0 is left out: it is 0.
            AddMagnitude(nfa, nfa.Literal(from, "-"u8), to, Math.Max(-most, 0), most >= 0 || mostOut, -least, leastOut, fraction);
        }
    }

    private static void AddAny(Nfa nfa, int from, int to)
    {
        int first = nfa.AddState();
        nfa.Epsilon(from, first);
        nfa.Epsilon(nfa.Literal(from, "-"u8), first);
        int whole = nfa.Literal(first, "0"u8);
        int digits = nfa.AddState();
        nfa.Bytes(first, digits, (byte)'1', (byte)'9');
        nfa.Epsilon(AddDigits(nfa, digits, 0, MostDigits - 1), whole);
        int part = nfa.AddState();
        nfa.Epsilon(whole, part);
        nfa.Epsilon(AddDigits(nfa, nfa.Literal(whole, "."u8), 1, MostFraction), part);
        nfa.Epsilon(part, to);
        int exponent = nfa.AddState();
        nfa.Bytes(part, exponent, (byte)'e', (byte)'e');
        nfa.Bytes(part, exponent, (byte)'E', (byte)'E');
        int sign = nfa.AddState();
        nfa.Epsilon(exponent, sign);
        nfa.Bytes(exponent, sign, (byte)'+', (byte)'+');
        nfa.Bytes(exponent, sign, (byte)'-', (byte)'-');

        // Two digits: with 18 before the point a double holds it.
        nfa.Epsilon(AddDigits(nfa, sign, 1, 2), to);
    }

    private static int AddDigits(Nfa nfa, int from, int least, int most)
    {
        int end = nfa.AddState();
        for (int i = 0; i <= most; i++)
        {
            if (i >= least)
            {
                nfa.Epsilon(from, end);
            }

            if (i < most)
            {
                int next = nfa.AddState();
                nfa.Bytes(from, next, (byte)'0', (byte)'9');
                from = next;
            }
        }

        return end;
    }

    private static void AddMagnitude(Nfa nfa, int from, int to, decimal least, bool leastOut, decimal most, bool mostOut, int fraction)
    {
        var automaton = new NumberAutomaton(nfa, to, Side.Of(least, leastOut), Side.Of(most, mostOut), fraction);
        int lowLength = automaton._low.Whole.Length;
        int highLength = Math.Min(automaton._high.Whole.Length, MostDigits);
        for (int length = lowLength; length <= highLength; length++)
        {
            nfa.Epsilon(from, automaton.Whole(length, 0, length == lowLength, length == automaton._high.Whole.Length));
        }
    }

    private int Whole(int length, int at, bool low, bool high)
    {
        if (at == length)
        {
            return Behind(low, high);
        }

        if (!_whole.TryGetValue((length, at, low, high), out int state))
        {
            state = _nfa.AddState();
            _whole.Add((length, at, low, high), state);
            int first = at == 0 && length > 1 ? 1 : 0;
            AddDigits(state, first, low ? _low.Whole[at] - '0' : 0, high ? _high.Whole[at] - '0' : 9, low, high, (l, h) => Whole(length, at + 1, l, h));
        }

        return state;
    }

    // Behind the last digit before the point.
    private int Behind(bool low, bool high)
    {
        int state = _nfa.AddState();
        if (MayEnd(0, low, high))
        {
            _nfa.Epsilon(state, _to);
        }

        if (_mostFraction > 0)
        {
            _nfa.Bytes(state, Fraction(0, low, high), (byte)'.', (byte)'.');
        }

        return state;
    }

    private int Fraction(int at, bool low, bool high)
    {
        if (!_fraction.TryGetValue((at, low, high), out int state))
        {
            state = _nfa.AddState();
            _fraction.Add((at, low, high), state);
            if (at > 0 && MayEnd(at, low, high))
            {
                _nfa.Epsilon(state, _to);
            }

            if (at < _mostFraction)
            {
                AddDigits(state, 0, low ? _low.FractionDigit(at) : 0, high ? _high.FractionDigit(at) : 9, low, high, (l, h) => Fraction(at + 1, l, h));
            }
        }

        return state;
    }

    private void AddDigits(int state, int first, int least, int most, bool low, bool high, Func<bool, bool, int> next)
    {
        for (int digit = Math.Max(first, least); digit <= most; digit++)
        {
            byte value = (byte)('0' + digit);
            _nfa.Bytes(state, next(low && digit == least, high && digit == most), value, value);
        }
    }

    private bool MayEnd(int at, bool low, bool high) =>
        (!low || (_low.RestIsZero(at) && !_low.IsOutside)) && (!high || !_high.RestIsZero(at) || !_high.IsOutside);

    /// <summary>A bound's digits.</summary>
    private sealed record Side(string Whole, string Fraction, bool IsOutside)
    {
        public static Side Of(decimal value, bool isOutside)
        {
            string[] parts = value.ToString("0.############################", CultureInfo.InvariantCulture).Split('.');
            return new Side(parts[0], parts.Length > 1 ? parts[1] : "", isOutside);
        }

        public int FractionDigit(int at) => at < Fraction.Length ? Fraction[at] - '0' : 0;

        public bool RestIsZero(int at) => at >= Fraction.Length || Fraction.AsSpan(at).IndexOfAnyExcept('0') < 0;
    }
}

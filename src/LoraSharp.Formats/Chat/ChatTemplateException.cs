namespace LoraSharp.Formats.Chat;

/// <summary>A chat template that cannot be parsed, or that refuses the conversation it was given.</summary>
public sealed class ChatTemplateException : LoraSharpException
{
    /// <summary>Creates the error.</summary>
    /// <param name="reason">What is wrong, worded as the reference implementation words it.</param>
    /// <param name="line">Line of the template, from 1; 0 when it is not about one.</param>
    /// <param name="raisedByTemplate">Whether the template itself called <c>raise_exception</c>.</param>
    /// <param name="inner">The error underneath, if there is one.</param>
    public ChatTemplateException(string reason, int line, bool raisedByTemplate = false, Exception? inner = null)
        : base(raisedByTemplate ? $"The model's chat template refuses these messages: {reason}" : line > 0 ? $"The model's chat template fails in line {line}: {reason}" : reason, inner)
    {
        Reason = reason;
        Line = line;
        RaisedByTemplate = raisedByTemplate;
    }

    /// <summary>What is wrong, without the words around it: what <c>str(error)</c> is in Python.</summary>
    public string Reason { get; }

    /// <summary>Line of the template, from 1; 0 when the error is not about one.</summary>
    public int Line { get; }

    /// <summary>Whether the template itself called <c>raise_exception</c>, for example because roles do not alternate.</summary>
    public bool RaisedByTemplate { get; }
}

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>The Python exception that the reference would raise; some filters and lookups catch certain kinds.</summary>
internal enum ErrorKind
{
    Template,
    Undefined,
    Security,
    Type,
    Value,
    Lookup,
    ZeroDivision,
    Overflow,
    Runtime,
    Limit,
}

/// <summary>A failure while a template runs, worded as Python words it; it leaves the renderer as a <see cref="ChatTemplateException"/>.</summary>
internal sealed class PythonError(ErrorKind kind, string message) : Exception(message)
{
    public ErrorKind Kind => kind;

    public static PythonError Type(string message) => new(ErrorKind.Type, message);

    public static PythonError Value(string message) => new(ErrorKind.Value, message);
}

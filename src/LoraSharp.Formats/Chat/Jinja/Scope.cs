namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>
/// Names and values. A loop's body, a macro and a block have scopes of their own, so that what they set is gone behind
/// them; the branches of an <c>if</c> have not.
/// </summary>
internal sealed class Scope(Scope? parent)
{
    private readonly Dictionary<string, object?> _values = [];

    public void Set(string name, object? value) => _values[name] = value;

    public bool TryGet(string name, out object? value)
    {
        for (Scope? scope = this; scope is not null; scope = scope.Parent)
        {
            if (scope._values.TryGetValue(name, out value))
            {
                return true;
            }
        }

        value = null;
        return false;
    }

    private Scope? Parent => parent;
}

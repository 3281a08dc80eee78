using System.Runtime.CompilerServices;

namespace LoraSharp.Formats.Chat.Jinja;

/// <summary>
/// What one rendering may still spend. A template comes with a downloaded model, so it is hostile until proven
/// otherwise: steps bound its time, the length of texts bounds its memory, the stack check bounds its depth.
/// </summary>
internal sealed class Budget(ChatTemplateLimits limits)
{
    // A text costs a step every 16 characters, so that the sum of all texts a template makes is bounded too.
    private const int CharactersPerStep = 16;

    private long _steps;

    /// <summary>Pays for work.</summary>
    public void Step(long count = 1)
    {
        _steps += count;
        if (_steps > limits.MaxSteps)
        {
            throw new PythonError(ErrorKind.Limit, $"the template takes more than {limits.MaxSteps} steps");
        }
    }

    /// <summary>Pays for a text before it is made.</summary>
    public void Characters(long count)
    {
        if (count > limits.MaxTextLength)
        {
            throw new PythonError(ErrorKind.Limit, $"the template makes a text of more than {limits.MaxTextLength} characters");
        }

        Step(count / CharactersPerStep);
    }

    /// <summary>Pays for what a text grows by.</summary>
    public void Grow(long length, long added)
    {
        if (length + added > limits.MaxTextLength)
        {
            Characters(length + added);
        }

        Step(added / CharactersPerStep);
    }

    /// <summary>Pays for a list before it is made.</summary>
    public void Items(long count) => Step(count);

    /// <summary>Fails while there is still stack left to fail with.</summary>
    public static void Depth()
    {
        if (!RuntimeHelpers.TryEnsureSufficientExecutionStack())
        {
            throw new PythonError(ErrorKind.Limit, "maximum recursion depth exceeded");
        }
    }
}

using System.Text;
using System.Text.RegularExpressions;

namespace LoraSharp.Formats.Hub;

/// <summary>
/// Which files of a repository are wanted. Patterns are those of a shell (<c>*</c>, <c>?</c>, <c>[abc]</c>), over the whole
/// path; <c>*</c> crosses folders, as in huggingface_hub.
/// </summary>
/// <param name="Include">Files that match one of these; empty: what a model or an adapter needs.</param>
/// <param name="Exclude">Files that match one of these are left out.</param>
public sealed record FileFilter(IReadOnlyList<string> Include, IReadOnlyList<string> Exclude)
{
    // What transformers and PEFT read: weights as safetensors, JSON, tokenizers, chat templates. No pickles (.bin, .pt),
    // no other frameworks (.h5, .msgpack, .onnx), and no copies of the weights in another layout (consolidated, original/).
    private static readonly string[] Needed = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.spm", "README.md", "LICENSE*"];
    private static readonly string[] Copies = ["consolidated*.safetensors", "*.onnx*", "flax_*", "tf_*"];
    private static readonly string[] NeededFolders = ["additional_chat_templates/"];

    /// <summary>What a model or an adapter needs.</summary>
    public static FileFilter Default { get; } = new([], []);

    /// <summary>Whether a file is wanted.</summary>
    public bool Matches(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        bool included = Include.Count > 0
            ? Include.Any(pattern => IsMatch(pattern, path))
            : IsTopLevel(path) && Needed.Any(pattern => IsMatch(pattern, path)) && !Copies.Any(pattern => IsMatch(pattern, path));
        return included && !Exclude.Any(pattern => IsMatch(pattern, path));
    }

    private static bool IsTopLevel(string path) => !path.Contains('/', StringComparison.Ordinal) || NeededFolders.Any(folder => path.StartsWith(folder, StringComparison.Ordinal));

    private static bool IsMatch(string pattern, string path) => Regex.IsMatch(path, ToRegex(pattern), RegexOptions.CultureInvariant | RegexOptions.NonBacktracking | RegexOptions.Singleline);

    private static string ToRegex(string pattern)
    {
        // A pattern that names a folder means what is in it.
        pattern = pattern.EndsWith('/') ? pattern + "*" : pattern;
        var result = new StringBuilder("^");
        for (int i = 0; i < pattern.Length; i++)
        {
            int close = pattern[i] == '[' ? pattern.IndexOf(']', Math.Min(i + 2, pattern.Length - 1)) : -1;
            if (close > i)
            {
                string set = pattern[(i + 1)..close];
                bool negated = set.StartsWith('!');
                result.Append(negated ? "[^" : "[").Append(Regex.Replace(negated ? set[1..] : set, @"[\\\[\]^]", @"\$0")).Append(']');
                i = close;
            }
            else
            {
                result.Append(pattern[i] == '*' ? ".*" : pattern[i] == '?' ? "." : Regex.Escape(pattern[i].ToString()));
            }
        }

        return result.Append('$').ToString();
    }
}

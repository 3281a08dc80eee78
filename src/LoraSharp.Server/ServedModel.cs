using LoraSharp.Formats;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Inference.Constraints;
using LoraSharp.Server.Training;
using LoraSharp.Serving;

namespace LoraSharp.Server;

/// <summary>What the routes work with.</summary>
/// <param name="Engine">Generates.</param>
/// <param name="Tokenizer">Texts; null when the model has none (token ids only).</param>
/// <param name="Template">Chats; null when the model has none.</param>
/// <param name="Defaults">End ids of the model's makers.</param>
public sealed record ServedModel(InferenceEngine Engine, Tokenizer? Tokenizer, ChatTemplate? Template, GenerationConfig Defaults)
{
    private readonly Lock _gate = new();
    private ConstraintCompiler? _constraints;

    /// <summary>Trains on the same base beside serving; null where that cannot be done.</summary>
    public TrainingDesk? Training { get; init; }

    /// <summary>Makes forms that answers must have; made when first asked for.</summary>
    /// <exception cref="LoraSharpException">The model has no tokenizer.</exception>
    public ConstraintCompiler Constraints
    {
        get
        {
            lock (_gate)
            {
                return _constraints ??= new ConstraintCompiler(Tokenizer ?? throw new LoraSharpException("The model has no tokenizer: its answers cannot be held to a form."), Defaults.EosTokenIds);
            }
        }
    }
}

using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Tokenization;
using LoraSharp.Inference;
using LoraSharp.Serving;

namespace LoraSharp.Server;

/// <summary>What the routes work with.</summary>
/// <param name="Engine">Generates.</param>
/// <param name="Tokenizer">Texts; null when the model has none (token ids only).</param>
/// <param name="Template">Chats; null when the model has none.</param>
/// <param name="Defaults">End ids of the model's makers.</param>
public sealed record ServedModel(InferenceEngine Engine, Tokenizer? Tokenizer, ChatTemplate? Template, GenerationConfig Defaults);

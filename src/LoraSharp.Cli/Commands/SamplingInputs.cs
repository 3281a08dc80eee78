using System.CommandLine;
using LoraSharp.Inference;

namespace LoraSharp.Cli.Commands;

/// <summary>Options of the commands that generate text; what is not given comes from the model's generation_config.json.</summary>
internal sealed class SamplingInputs
{
    private readonly Option<int> _maxTokens = new("--max-tokens") { Description = "Most tokens to generate.", HelpName = "N", DefaultValueFactory = _ => 256 };
    private readonly Option<double?> _temperature = new("--temperature") { Description = "0 for the most likely token; default: the model's own.", HelpName = "T" };
    private readonly Option<int?> _topK = new("--top-k") { Description = "Only the k most likely tokens; 0 for all.", HelpName = "K" };
    private readonly Option<double?> _topP = new("--top-p") { Description = "Only the most likely tokens that together reach this probability.", HelpName = "P" };
    private readonly Option<double?> _minP = new("--min-p") { Description = "Only tokens at least this fraction as likely as the likeliest.", HelpName = "P" };
    private readonly Option<double?> _repetition = new("--repetition-penalty") { Description = "Makes tokens of prompt and text less likely; 1 for none.", HelpName = "X" };
    private readonly Option<double> _frequency = new("--frequency-penalty") { Description = "Taken off a logit for each time its token was generated.", HelpName = "X" };
    private readonly Option<double> _presence = new("--presence-penalty") { Description = "Taken off a logit once its token was generated.", HelpName = "X" };
    private readonly Option<long> _seed = new("--seed") { Description = "Seed of the random numbers.", HelpName = "S" };
    private readonly Option<bool> _ignoreEos = new("--ignore-eos") { Description = "Go on past the end of the text, up to --max-tokens." };
    private readonly Option<string[]> _stop = new("--stop") { Description = "End the text before this string; may be given several times.", HelpName = "TEXT", DefaultValueFactory = _ => [] };

    /// <summary>Gives them to a command.</summary>
    public SamplingInputs(Command command)
    {
        foreach (Option option in (Option[])[_maxTokens, _temperature, _topK, _topP, _minP, _repetition, _frequency, _presence, _seed, _ignoreEos, _stop])
        {
            command.Add(option);
        }
    }

    /// <summary>The options, over the defaults of the model's makers.</summary>
    public GenerationOptions Read(ParseResult parsed, GenerationConfig defaults)
    {
        if (defaults.NotApplied.Count > 0)
        {
            Console.Error.WriteLine($"note: generation_config.json asks for {string.Join(", ", defaults.NotApplied)}, which is not applied.");
        }

        SamplingOptions own = defaults.Sampling;
        return new GenerationOptions
        {
            MaxTokens = parsed.GetValue(_maxTokens),
            EosTokenIds = defaults.EosTokenIds,
            IgnoreEos = parsed.GetValue(_ignoreEos),
            StopStrings = parsed.GetValue(_stop)!,
            Sampling = own with
            {
                Temperature = parsed.GetValue(_temperature) ?? own.Temperature,
                TopK = parsed.GetValue(_topK) ?? own.TopK,
                TopP = parsed.GetValue(_topP) ?? own.TopP,
                MinP = parsed.GetValue(_minP) ?? own.MinP,
                RepetitionPenalty = parsed.GetValue(_repetition) ?? own.RepetitionPenalty,
                FrequencyPenalty = parsed.GetValue(_frequency),
                PresencePenalty = parsed.GetValue(_presence),
                Seed = parsed.GetValue(_seed),
            },
        }.Validate();
    }
}

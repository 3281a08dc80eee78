namespace LoraSharp.Training.Rewards;

/// <summary>Samples completions from the model as it is now.</summary>
/// <param name="prompts">Token ids of each prompt.</param>
/// <param name="options">How many of each, how long, at which temperature.</param>
/// <param name="seed">Equal seeds give equal completions.</param>
/// <returns>Of each prompt its group: token ids without the prompt, with the end token where it was reached.</returns>
public delegate IReadOnlyList<IReadOnlyList<int[]>> SampleCompletions(IReadOnlyList<int[]> prompts, GrpoOptions options, long seed);

/// <summary>Judges a completion by its token ids.</summary>
/// <param name="prompt">Token ids.</param>
/// <param name="reference">The row's own completion: what a check compares with.</param>
/// <param name="completion">What the model wrote.</param>
public delegate double CompletionReward(int[] prompt, int[] reference, int[] completion);

/// <summary>Judges a completion by its text, special tokens left out.</summary>
/// <param name="prompt">What the model was asked.</param>
/// <param name="reference">The row's own completion: what a check compares with.</param>
/// <param name="completion">What the model wrote.</param>
/// <returns>Any finite number; only differences within a prompt's group count.</returns>
public delegate double TextReward(string prompt, string reference, string completion);

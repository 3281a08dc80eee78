using LoraSharp.Cli;

return await LoraCommand.RunAsync(args);

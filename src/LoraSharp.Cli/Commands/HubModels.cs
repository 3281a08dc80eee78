using System.CommandLine;
using System.CommandLine.Parsing;
using LoraSharp.Formats.Hub;

namespace LoraSharp.Cli.Commands;

/// <summary>Models and adapters that are named by a hub name and are not in the cache yet are downloaded first.</summary>
internal static class HubModels
{
    private static readonly TimeSpan LongestProbe = TimeSpan.FromSeconds(5);
    private static readonly HashSet<string> Options = ["--model", "--models", "--adapter", "--adapters", "--base", "--tuned", "--against"];

    /// <summary>Downloads what the options of a command line name.</summary>
    public static async Task EnsureAsync(ParseResult result)
    {
        foreach (OptionResult option in result.CommandResult.Children.OfType<OptionResult>().Where(option => Options.Contains(option.Option.Name)))
        {
            foreach (Token token in option.Tokens)
            {
                await EnsureAsync(token.Value);
            }
        }
    }

    /// <summary>Downloads a model or adapter, unless it lies here, is in the cache, or can be no name on the hub.</summary>
    /// <exception cref="HubException">It is not on the hub, or the hub cannot be reached.</exception>
    public static async Task EnsureAsync(string pathOrName, CancellationToken cancellation = default)
    {
        // PATH=WEIGHT of an adapter: the name ends before the sign.
        string plain = pathOrName.Split('=')[0];
        if (Directory.Exists(pathOrName) || File.Exists(pathOrName) || Directory.Exists(plain) || File.Exists(plain)
            || !plain.Contains('/', StringComparison.Ordinal) || !HubName.TryParse(plain, out HubName? name))
        {
            return;
        }

        HubSettings settings = HubSettings.FromEnvironment();
        var cache = new HubCache(settings.CacheFolder);
        if (settings.Offline || cache.ResolveSnapshot(name!) is not null)
        {
            return;
        }

        try
        {
            // One retry, and little patience where packets are swallowed: a mistyped path should not take long to be told.
            TimeSpan patience = settings.Timeout < LongestProbe ? settings.Timeout : LongestProbe;
            using var probe = new HubClient(settings with { Retries = 1, Timeout = patience });
            await probe.ListAsync(name!, cancellation);
        }
        catch (HubException error) when (error.Fault is HubFault.Unreachable)
        {
            throw new HubException(error.Fault, $"{plain}: there is no such folder or file here, nor is it in the hub cache {cache.Folder}. {cache.Describe(name!)} As a name on the hub: {error.Message}", error);
        }
        catch (HubException error) when (error.Fault is HubFault.RepositoryNotFound)
        {
            throw new HubException(error.Fault, $"{plain}: there is no such folder or file here, and as a name on the hub: {error.Message}", error);
        }

        using var client = new HubClient(settings);
        Console.Error.WriteLine($"{name} is not in the cache; downloading it from {settings.Endpoint.Host}.");
        await TransferView.ShowAsync(quiet: false, progress => client.PullAsync(name!, null, progress, cancellation: cancellation));
    }
}

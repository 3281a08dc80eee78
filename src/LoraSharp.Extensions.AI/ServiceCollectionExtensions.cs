using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;

namespace LoraSharp.Extensions.AI;

/// <summary>LoraSharp in a container of services.</summary>
public static class ServiceCollectionExtensions
{
    /// <summary>
    /// Adds a model with its adapters: <see cref="LocalModel"/>, <see cref="EngineChatClient"/> and
    /// <see cref="EngineEmbeddingGenerator"/>, the latter two also as <see cref="IChatClient"/> and
    /// <see cref="IEmbeddingGenerator{TInput, TEmbedding}"/> where nobody else provides them. It is loaded when first asked for.
    /// </summary>
    /// <param name="services">Where to.</param>
    /// <param name="configure">Says which model; called once, here.</param>
    /// <exception cref="Formats.LoraSharpException">Options are out of range.</exception>
    public static IServiceCollection AddLoraSharp(this IServiceCollection services, Action<LoraSharpOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(configure);
        var options = new LoraSharpOptions();
        configure(options);
        options.Validate();
        services.AddSingleton(_ => LocalModel.Load(options));
        services.AddSingleton<EngineChatClient>();
        services.AddSingleton<EngineEmbeddingGenerator>();
        services.TryAddSingleton<IChatClient>(provider => provider.GetRequiredService<EngineChatClient>());
        services.TryAddSingleton<IEmbeddingGenerator<string, Embedding<float>>>(provider => provider.GetRequiredService<EngineEmbeddingGenerator>());
        return services;
    }
}

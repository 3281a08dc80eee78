using System.Security.Cryptography;
using System.Text;
using Microsoft.AspNetCore.Http;

namespace LoraSharp.Server.Access;

/// <summary>All keys of a server. Immutable: a changed file makes a new ring.</summary>
internal sealed class KeyRing : IDisposable
{
    private readonly (byte[] Hash, Caller Caller)[] _callers;
    private readonly bool _hasUsers;
    private readonly bool _hasAdmins;

    public KeyRing(ServerOptions options)
    {
        IEnumerable<ApiKey> plain = options.ApiKeys.Select((k, i) => ApiKey.FromText(options.ApiKeys.Count == 1 ? "api-key" : $"api-key-{i + 1}", k));
        IEnumerable<ApiKey> admin = options.AdminKey is { } key ? [ApiKey.FromText("admin", key) with { IsAdmin = true }] : [];
        IEnumerable<ApiKey> filed = options.KeysFile is { } file ? KeysFile.Read(file) : [];
        ApiKey[] keys = [.. plain, .. admin, .. filed];
        _hasUsers = options.ApiKeys.Count > 0 || options.KeysFile is not null;
        _hasAdmins = keys.Any(k => k.IsAdmin);

        // Who starts a server with nothing but --api-key means one owner; a file of keys means tenants, who never are admins.
        bool owner = !_hasAdmins && options.KeysFile is null;
        _callers = [.. keys.Select(k => (Convert.FromHexString(k.Sha256), new Caller(owner ? k with { IsAdmin = true } : k)))];
        Anyone = new Caller(new ApiKey { Name = "anyone", Sha256 = new string('0', 64), IsAdmin = !_hasUsers && !_hasAdmins });
    }

    /// <summary>Who sends no key, where none is asked for.</summary>
    public Caller Anyone { get; }

    /// <summary>Who sends a request to a route of this kind.</summary>
    /// <exception cref="ApiError">401 without a valid key, 403 with one that may not.</exception>
    public Caller Identify(HttpRequest request, RouteAccess access)
    {
        Caller? holder = Find(request);
        bool needed = access == RouteAccess.Admin ? _hasUsers || _hasAdmins : _hasUsers;
        if (holder is null)
        {
            // Where none is asked for any will do: OpenAI's clients insist on sending one.
            return !needed ? Anyone : throw new ApiError(StatusCodes.Status401Unauthorized, "A valid API key is needed: Authorization: Bearer KEY.", null, "invalid_api_key");
        }

        return access != RouteAccess.Admin || holder.Key.IsAdmin
            ? holder
            : throw new ApiError(StatusCodes.Status403Forbidden, _hasAdmins ? "This needs an admin key." : "This needs an admin key, and the server has none: start it with --admin-key.", null, "admin_key_needed");
    }

    public void Dispose()
    {
        foreach ((_, Caller caller) in _callers)
        {
            caller.Dispose();
        }
    }

    private Caller? Find(HttpRequest request)
    {
        string header = request.Headers.Authorization.ToString();
        if (!header.StartsWith("Bearer ", StringComparison.OrdinalIgnoreCase))
        {
            return null;
        }

        byte[] given = SHA256.HashData(Encoding.UTF8.GetBytes(header[7..].Trim()));
        Caller? found = null;
        foreach ((byte[] hash, Caller caller) in _callers)
        {
            // All are compared, each in the same time, so that nothing is learnt from how long it takes.
            found = CryptographicOperations.FixedTimeEquals(given, hash) ? caller : found;
        }

        return found;
    }
}

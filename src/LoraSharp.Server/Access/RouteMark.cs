namespace LoraSharp.Server.Access;

/// <summary>Who may call a route.</summary>
internal enum RouteAccess
{
    /// <summary>Anyone: health checks.</summary>
    Open,

    /// <summary>Holders of a key, where there are keys.</summary>
    Use,

    /// <summary>Holders of an admin key.</summary>
    Admin,
}

/// <summary>Metadata of an endpoint.</summary>
/// <param name="Access">Who may call it.</param>
/// <param name="Computes">Whether it makes the model work: counted against limits, refused while the server drains.</param>
/// <param name="Watches">Whether it lasts as long as what it watches: no time limit holds.</param>
internal sealed record RouteMark(RouteAccess Access, bool Computes = false, bool Watches = false);

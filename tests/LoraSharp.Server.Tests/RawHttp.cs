using System.Net;
using System.Net.Sockets;
using System.Text;

namespace LoraSharp.Server.Tests;

/// <summary>Requests that no well-behaved client would send.</summary>
internal static class RawHttp
{
    /// <summary>Sends bytes as they are and reads until the server closes, or a whole answer is there.</summary>
    public static async Task<string> SendAsync(int port, string request)
    {
        using var client = new TcpClient();
        await client.ConnectAsync(IPAddress.Loopback, port, TestContext.Current.CancellationToken);
        NetworkStream stream = client.GetStream();
        var answer = new StringBuilder();
        try
        {
            await stream.WriteAsync(Encoding.Latin1.GetBytes(request), TestContext.Current.CancellationToken);
            byte[] buffer = new byte[4096];
            using var limit = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
            limit.CancelAfter(TimeSpan.FromSeconds(20));
            while (!answer.ToString().Contains("\r\n\r\n") && await stream.ReadAsync(buffer, limit.Token) is var read and > 0)
            {
                answer.Append(Encoding.Latin1.GetString(buffer, 0, read));
            }
        }
        catch (IOException)
        {
            // The server closed while we were still sending.
        }

        return answer.ToString();
    }
}

using System.Diagnostics;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace LoraSharp.Benchmarks.Serving;

/// <summary>What came of one streamed request, as its client saw it.</summary>
internal sealed class StreamedAnswer
{
    public HttpStatusCode Status { get; set; }

    /// <summary>Token ids, where they were asked for.</summary>
    public List<int> Ids { get; } = [];

    public int Tokens { get; set; }

    /// <summary>Seconds from sending to the first token; null when none came.</summary>
    public double? FirstToken { get; set; }

    /// <summary>Seconds between one token and the next.</summary>
    public List<double> Gaps { get; } = [];

    public double Seconds { get; set; }

    public string? Finish { get; set; }

    /// <summary>The server's message when it refused, or what broke the stream.</summary>
    public string? Error { get; set; }

    /// <summary>Whether this client ended it on purpose.</summary>
    public bool Left { get; set; }
}

/// <summary>Streamed completions over HTTP with token ids as prompts, and ways in which clients misbehave.</summary>
internal sealed class CompletionClient(Uri address, string? key = null) : IDisposable
{
    private readonly HttpClient _http = Create(address, key);

    /// <summary>Sends a request and reads its stream.</summary>
    /// <param name="model">Adapter or base.</param>
    /// <param name="prompt">Token ids.</param>
    /// <param name="tokens">Length of the answer; it is always that long.</param>
    /// <param name="withIds">Ask for the tokens' ids, which makes the server compute log-probabilities.</param>
    /// <param name="leaveAfter">Close the connection after so many tokens; null to stay.</param>
    /// <param name="pause">Wait so long after each token: a slow reader.</param>
    /// <param name="cancellation">Ends the run.</param>
    public async Task<StreamedAnswer> AskAsync(string model, IReadOnlyList<int> prompt, int tokens, bool withIds = false, int? leaveAfter = null, TimeSpan pause = default, CancellationToken cancellation = default)
    {
        var answer = new StreamedAnswer();
        long start = Stopwatch.GetTimestamp();
        try
        {
            using var request = new HttpRequestMessage(HttpMethod.Post, "v1/completions") { Content = new StringContent(Body(model, prompt, tokens, withIds), Encoding.UTF8, "application/json") };
            using HttpResponseMessage response = await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellation).ConfigureAwait(false);
            answer.Status = response.StatusCode;
            using Stream stream = await response.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false);
            using var reader = new StreamReader(stream);
            if (!response.IsSuccessStatusCode)
            {
                answer.Error = await reader.ReadToEndAsync(cancellation).ConfigureAwait(false);
            }
            else
            {
                await ReadAsync(reader, answer, start, leaveAfter, pause, cancellation).ConfigureAwait(false);
            }
        }
        catch (Exception error) when (error is HttpRequestException or IOException && !cancellation.IsCancellationRequested)
        {
            answer.Error = error.Message;
        }

        answer.Seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return answer;
    }

    /// <summary>Sends a body and tells the status alone.</summary>
    public async Task<HttpStatusCode> PostAsync(string path, string body, CancellationToken cancellation)
    {
        using var content = new StringContent(body, Encoding.UTF8, "application/json");
        using HttpResponseMessage response = await _http.PostAsync(path, content, cancellation).ConfigureAwait(false);
        return response.StatusCode;
    }

    /// <summary>Sends a request and resets the connection a moment later, as a client whose machine was switched off.</summary>
    public async Task VanishAsync(string model, IReadOnlyList<int> prompt, int tokens, TimeSpan after, CancellationToken cancellation)
    {
        using var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { LingerState = new LingerOption(true, 0) };
        await socket.ConnectAsync(address.Host, address.Port, cancellation).ConfigureAwait(false);
        string body = Body(model, prompt, tokens, withIds: false);
        await socket.SendAsync(Encoding.UTF8.GetBytes($"POST /v1/completions HTTP/1.1\r\nHost: {address.Authority}\r\nContent-Type: application/json\r\nContent-Length: {body.Length}\r\n\r\n{body}"), cancellation).ConfigureAwait(false);
        await Task.Delay(after, cancellation).ConfigureAwait(false);
    }

    public void Dispose() => _http.Dispose();

    private static HttpClient Create(Uri address, string? key)
    {
        var client = new HttpClient(new SocketsHttpHandler { MaxConnectionsPerServer = 4096, PooledConnectionIdleTimeout = TimeSpan.FromSeconds(10) })
        {
            BaseAddress = address,
            Timeout = Timeout.InfiniteTimeSpan,
        };
        client.DefaultRequestHeaders.Authorization = key is null ? null : new AuthenticationHeaderValue("Bearer", key);
        return client;
    }

    private static string Body(string model, IReadOnlyList<int> prompt, int tokens, bool withIds) =>
        $$"""{"model":{{JsonSerializer.Serialize(model)}},"prompt":[{{string.Join(',', prompt)}}],"max_tokens":{{tokens}},"temperature":0,"ignore_eos":true,"stream":true{{(withIds ? ",\"logprobs\":0,\"return_tokens_as_token_ids\":true" : "")}}}""";

    private static async Task ReadAsync(StreamReader reader, StreamedAnswer answer, long start, int? leaveAfter, TimeSpan pause, CancellationToken cancellation)
    {
        long last = start;
        while (await reader.ReadLineAsync(cancellation).ConfigureAwait(false) is { } line)
        {
            if (!line.StartsWith("data: {", StringComparison.Ordinal))
            {
                continue;
            }

            int came = Take(answer, line.AsMemory(6));
            if (came > 0)
            {
                long now = Stopwatch.GetTimestamp();
                double seconds = Stopwatch.GetElapsedTime(last, now).TotalSeconds;
                if (answer.FirstToken is null)
                {
                    answer.FirstToken = seconds;
                }
                else
                {
                    answer.Gaps.Add(seconds / came);
                }

                last = now;
                answer.Tokens += came;
            }

            if (answer.Tokens >= leaveAfter)
            {
                answer.Left = true;
                return;
            }

            if (pause > TimeSpan.Zero)
            {
                await Task.Delay(pause, cancellation).ConfigureAwait(false);
            }
        }
    }

    // The number of tokens of an event: as many as it has ids, else one.
    private static int Take(StreamedAnswer answer, ReadOnlyMemory<char> json)
    {
        using JsonDocument document = JsonDocument.Parse(json);
        JsonElement root = document.RootElement;
        if (root.TryGetProperty("error", out JsonElement error))
        {
            answer.Error = error.GetProperty("message").GetString();
            return 0;
        }

        if (!root.TryGetProperty("choices", out JsonElement choices) || choices.GetArrayLength() == 0)
        {
            return 0;
        }

        JsonElement choice = choices[0];
        if (choice.TryGetProperty("finish_reason", out JsonElement finish) && finish.ValueKind == JsonValueKind.String)
        {
            answer.Finish = finish.GetString();
        }

        if (!choice.TryGetProperty("logprobs", out JsonElement scores) || scores.ValueKind != JsonValueKind.Object)
        {
            return 1;
        }

        int count = 0;
        foreach (JsonElement token in scores.GetProperty("tokens").EnumerateArray())
        {
            answer.Ids.Add(int.Parse(token.GetString()!["token_id:".Length..]));
            count++;
        }

        return count;
    }
}

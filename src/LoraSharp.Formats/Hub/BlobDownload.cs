using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;

namespace LoraSharp.Formats.Hub;

/// <summary>
/// Gets one blob into the cache: goes on where an earlier try stopped (<c>.incomplete</c>, HTTP Range), checks length and
/// digest while it writes, and gives the file its name only when both are right.
/// </summary>
internal sealed class BlobDownload(HubHttp http, HubSettings settings, HubName name, BlobDownload.Source source, string blobPath, Action<TransferProgress> report)
{
    private const int BufferSize = 1 << 20;
    private const int MostCorruptTries = 2;

    private long _moved;

    /// <summary>What to download.</summary>
    /// <param name="Path">Path in the repository.</param>
    /// <param name="Address">Where its bytes are.</param>
    /// <param name="Etag">SHA-256 of a large file, git's SHA-1 of a small one.</param>
    /// <param name="Size">Bytes.</param>
    public sealed record Source(string Path, Uri Address, string Etag, long Size);

    /// <summary>Downloads what is missing.</summary>
    /// <returns>Bytes that came over the network.</returns>
    public async Task<long> RunAsync(CancellationToken cancellation)
    {
        string incomplete = blobPath + ".incomplete";
        int failures = 0;
        int corrupt = 0;
        while (true)
        {
            long before = _moved;
            Exception problem;
            try
            {
                if (await TryAsync(incomplete, cancellation))
                {
                    File.Move(incomplete, blobPath, overwrite: true);
                    return _moved;
                }

                // The wrong bytes are no base to go on from.
                File.Delete(incomplete);
                if (++corrupt >= MostCorruptTries)
                {
                    throw new HubException(HubFault.Corrupt, $"{name}: {source.Path} arrives with the wrong content, {corrupt} times in a row: its digest is not {source.Etag}, which the hub announces. The download was thrown away. Something between here and {source.Address.Host} changes it (a proxy, a mirror), or the file there is damaged.");
                }

                problem = new IOException("the content does not have the announced digest");
            }
            catch (Exception error) when (HubHttp.IsTransient(error) && !IsDiskFull(error))
            {
                failures = _moved > before ? 1 : failures + 1;
                if (failures > settings.Retries)
                {
                    throw http.Unreachable(error);
                }

                problem = error;
            }

            report(new TransferProgress(source.Path, Length(incomplete), source.Size, TransferState.Retrying, problem.Message));
            await Task.Delay(settings.RetryDelay * Math.Min(1 << Math.Max(0, failures - 1), 30), cancellation);
        }
    }

    public static bool IsDiskFull(Exception error) => error is IOException && (error.HResult & 0xFFFF) is 28 or 122 or 0x70;

    // True when the file is whole and right, false when it is whole and wrong; throws when the connection breaks.
    private async Task<bool> TryAsync(string incomplete, CancellationToken cancellation)
    {
        using var file = new FileStream(incomplete, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read, BufferSize, FileOptions.Asynchronous);
        if (file.Length > source.Size)
        {
            file.SetLength(0);
        }

        using Digest digest = Digest.For(source.Etag, source.Size);
        long have = await digest.AddAsync(file, cancellation);
        if (have < source.Size || source.Size == 0)
        {
            await ReceiveAsync(file, digest, have, cancellation);
        }

        await file.FlushAsync(cancellation);
        file.Flush(flushToDisk: true);
        return digest.Matches(source.Etag);
    }

    private async Task ReceiveAsync(FileStream file, Digest digest, long have, CancellationToken cancellation)
    {
        using HttpResponseMessage response = await http.SendOnceAsync(
            () =>
            {
                var request = new HttpRequestMessage(HttpMethod.Get, source.Address);
                request.Headers.AcceptEncoding.ParseAdd("identity");
                if (have > 0)
                {
                    request.Headers.Range = new System.Net.Http.Headers.RangeHeaderValue(have, null);
                }

                return request;
            },
            (_, _) => true,
            cancellation);
        if (response.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable || (response.StatusCode == HttpStatusCode.PartialContent && response.Content.Headers.ContentRange?.From != have))
        {
            file.SetLength(0);
            throw new IOException("the server cannot go on from where the last try stopped; starting anew.");
        }

        if (!response.IsSuccessStatusCode)
        {
            // A signed address runs out after a while; the next try gets a new one from the hub.
            throw (int)response.StatusCode is 403 or 408 or 429 or >= 500
                ? new IOException($"{source.Address.Host} answers {(int)response.StatusCode} {response.ReasonPhrase}.")
                : await http.RefusalAsync(response, name, cancellation);
        }

        if (response.StatusCode != HttpStatusCode.PartialContent && have > 0)
        {
            file.SetLength(0);
            digest.Reset();
            have = 0;
        }

        await CopyAsync(response, file, digest, have, cancellation);
    }

    private async Task CopyAsync(HttpResponseMessage response, FileStream file, Digest digest, long have, CancellationToken cancellation)
    {
        await using Stream body = await response.Content.ReadAsStreamAsync(cancellation);
        byte[] buffer = new byte[BufferSize];
        long done = have;
        file.Position = have;
        while (true)
        {
            int count = await ReadTimedAsync(body, buffer, cancellation);
            if (count == 0)
            {
                break;
            }

            if (done + count > source.Size)
            {
                throw new HubException(HubFault.Malformed, $"{name}: {source.Path} is longer than the {source.Size} bytes that the hub announces. The download was stopped.");
            }

            await file.WriteAsync(buffer.AsMemory(0, count), cancellation);
            digest.Add(buffer.AsSpan(0, count));
            done += count;
            _moved += count;
            report(new TransferProgress(source.Path, done, source.Size, TransferState.Moving));
        }

        if (done < source.Size)
        {
            await file.FlushAsync(cancellation);
            throw new IOException(string.Create(CultureInfo.InvariantCulture, $"the connection ended after {done} of {source.Size} bytes."));
        }
    }

    private async Task<int> ReadTimedAsync(Stream body, byte[] buffer, CancellationToken cancellation)
    {
        using var timed = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        timed.CancelAfter(settings.Timeout);
        try
        {
            return await body.ReadAsync(buffer, timed.Token);
        }
        catch (OperationCanceledException error) when (!cancellation.IsCancellationRequested)
        {
            throw new TimeoutException($"no data for {settings.Timeout.TotalSeconds:0} s.", error);
        }
    }

    private static long Length(string path) => File.Exists(path) ? new FileInfo(path).Length : 0;

    /// <summary>The digest that an etag announces: SHA-256 by 64 digits, git's SHA-1 of a blob by 40, none otherwise.</summary>
    private sealed class Digest(IncrementalHash? hash, byte[] prefix) : IDisposable
    {
        public static Digest For(string etag, long size)
        {
            bool hexadecimal = etag.All(char.IsAsciiHexDigit);
            return etag.Length == 64 && hexadecimal ? Start(HashAlgorithmName.SHA256, [])
                : etag.Length == 40 && hexadecimal ? Start(HashAlgorithmName.SHA1, Encoding.ASCII.GetBytes($"blob {size}\0"))
                : new Digest(null, []);
        }

        public void Add(ReadOnlySpan<byte> bytes) => hash?.AppendData(bytes);

        public async Task<long> AddAsync(FileStream file, CancellationToken cancellation)
        {
            byte[] buffer = new byte[BufferSize];
            file.Position = 0;
            for (int count; (count = await file.ReadAsync(buffer, cancellation)) > 0;)
            {
                Add(buffer.AsSpan(0, count));
            }

            return file.Length;
        }

        public void Reset()
        {
            hash?.GetHashAndReset();
            Add(prefix);
        }

        public bool Matches(string etag) => hash is null || string.Equals(Convert.ToHexString(hash.GetHashAndReset()), etag, StringComparison.OrdinalIgnoreCase);

        public void Dispose() => hash?.Dispose();

        private static Digest Start(HashAlgorithmName algorithm, byte[] prefix)
        {
            var digest = new Digest(IncrementalHash.CreateHash(algorithm), prefix);
            digest.Add(prefix);
            return digest;
        }
    }
}

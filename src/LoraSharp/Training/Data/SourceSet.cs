using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;

namespace LoraSharp.Training.Data;

/// <summary>Sources that are read into one store.</summary>
internal sealed class SourceSet(TrainingData data, DataOptions options, RowEncoder encoder, bool countDuplicates, IProgress<long>? progress, CancellationToken cancellation)
{
    private const int ChunkRows = 1024;
    private readonly HashSet<ulong> _seen = [];
    private readonly List<RowOrigin> _origins = [];

    public ExampleStore Store { get; } = data.Own(new ExampleStore());

    public List<SourceRange> Ranges { get; } = [];

    public List<ulong> Hashes { get; } = [];

    public List<bool> Verdicts { get; } = [];

    public ExampleKind? Kind { get; private set; }

    public long Rows { get; private set; }

    public int Items => Hashes.Count;

    public RowOrigin OriginOf(int item) => _origins[item];

    /// <summary>Reads a source; returns the rows read.</summary>
    public long Read(DataSource source, string split, int left, bool limited)
    {
        IReadOnlyList<string> files = DatasetFiles.Expand(source.Path, split);
        RowParser parser = Parser(options, source);
        IEnumerable<DatasetRow> rows = Limited(files.SelectMany(DatasetReader.Read), source.MaxSamples);
        rows = limited ? rows.Take(Math.Max(0, left)) : rows;
        int first = Items;
        long read = 0;
        foreach (DatasetRow[] chunk in rows.Chunk(ChunkRows))
        {
            cancellation.ThrowIfCancellationRequested();
            EncodedRow[] encoded = Encode(parser, chunk);
            Check(source, parser.Schema!.Format);
            for (int i = 0; i < chunk.Length; i++)
            {
                Add(chunk[i].Origin, encoded[i]);
            }

            read += chunk.Length;
            Rows += chunk.Length;
            data.Report.Rows += chunk.Length;
            progress?.Report(data.Report.Rows);
        }

        Ranges.Add(new SourceRange(first, Items - first, source.Weight));
        data.Report.SourceList.Add(new SourceReport(source.Path, files.Count, parser.Schema?.Format.Name() ?? "", parser.Schema?.Columns ?? new Dictionary<string, string>(), read) { UnusedColumns = parser.UnusedColumns });
        return read;
    }

    private EncodedRow[] Encode(RowParser parser, DatasetRow[] chunk)
    {
        var encoded = new EncodedRow[chunk.Length];
        if (options.Workers == 1)
        {
            for (int i = 0; i < chunk.Length; i++)
            {
                encoded[i] = encoder.Encode(chunk[i], parser.Parse(chunk[i]));
            }

            return encoded;
        }

        // The first row settles the schema. Of several faults the first in the file is told, as with one worker.
        encoded[0] = encoder.Encode(chunk[0], parser.Parse(chunk[0]));
        var faults = new Exception?[chunk.Length];
        Parallel.For(1, chunk.Length, new ParallelOptions { MaxDegreeOfParallelism = options.Workers }, i =>
        {
            try
            {
                encoded[i] = encoder.Encode(chunk[i], parser.Parse(chunk[i]));
            }
            catch (LoraSharpException error)
            {
                faults[i] = error;
            }
        });
        return faults.FirstOrDefault(f => f is not null) is { } fault ? throw fault : encoded;
    }

    private void Check(DataSource source, DatasetFormat format)
    {
        ExampleKind kind = format switch { DatasetFormat.Preference => ExampleKind.Preference, DatasetFormat.Kto => ExampleKind.Kto, _ => ExampleKind.Plain };
        Kind ??= kind;
        if (Kind != kind)
        {
            throw new LoraSharpException($"{source.Path}: its rows are of format {format.Name()}, those of the sources before it are {Kind}. Preference and KTO rows can't be mixed with others in one run.");
        }
    }

    private void Add(RowOrigin origin, EncodedRow row)
    {
        foreach (string note in row.Notes ?? [])
        {
            Tally(data.Report.NotedBy, note).Add(origin);
        }

        if (row.CutTokens > 0 && row.Dropped is null)
        {
            data.Report.Cut.Add(origin);
            data.Report.CutTokens += row.CutTokens;
        }

        if (row.Dropped is not null)
        {
            Tally(data.Report.DroppedBy, row.Dropped).Add(origin);
            return;
        }

        int size = Kind == ExampleKind.Preference ? 2 : 1;
        for (int start = 0; start < row.Examples.Count; start += size)
        {
            ulong hash = 0;
            for (int i = start; i < start + size; i++)
            {
                Store.Add(row.Examples[i], origin);
                hash = StableRandom.Mix(hash ^ ExampleStore.HashIds(row.Examples[i]));
            }

            Hashes.Add(hash);
            _origins.Add(origin);
            if (Kind == ExampleKind.Kto)
            {
                Verdicts.Add(row.Desirable);
            }

            if (!_seen.Add(hash) && countDuplicates)
            {
                data.Report.Duplicates.Add(origin);
            }
        }
    }

    private static RowTally Tally(SortedDictionary<string, RowTally> tallies, string name)
    {
        if (!tallies.TryGetValue(name, out RowTally? tally))
        {
            tallies[name] = tally = new RowTally();
        }

        return tally;
    }

    internal static RowParser Parser(DataOptions options, DataSource source) =>
        new(source.Format ?? options.Format, source.Columns ?? options.Columns, options.PromptTemplate, options.CompletionTemplate, source.Format is null ? options.FormatAskedBy : null);

    internal static IEnumerable<DatasetRow> Limited(IEnumerable<DatasetRow> rows, int limit) => limit > 0 ? rows.Take(limit) : rows;
}

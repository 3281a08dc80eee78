using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Training.Data;

/// <summary>What one item of a data set is.</summary>
public enum ExampleKind
{
    /// <summary>One example: language modelling.</summary>
    Plain,

    /// <summary>Two examples that follow each other: chosen, rejected.</summary>
    Preference,

    /// <summary>One example with a verdict.</summary>
    Kto,
}

/// <summary>The rows of a run as tokens: training and validation, and the report of what became of them. Dispose it after the run.</summary>
public sealed class TrainingData : IDisposable
{
    private readonly List<ExampleStore> _stores = [];

    private TrainingData()
    {
    }

    /// <summary>Training examples; of preference rows chosen and rejected in turns.</summary>
    public IExamples Train { get; private set; } = new ExampleSubset(new ExampleStore(), []);

    /// <summary>Which training items are which source's; of preference rows in pairs, not examples.</summary>
    public IReadOnlyList<SourceRange> Sources { get; private set; } = [];

    /// <summary>Validation examples; null for none.</summary>
    public IExamples? Validation { get; private set; }

    /// <summary>What the items are.</summary>
    public ExampleKind Kind { get; private set; }

    /// <summary>Of KTO rows, for each training item whether its answer is good; else empty.</summary>
    public IReadOnlyList<bool> TrainVerdicts { get; private set; } = [];

    /// <summary>Of KTO rows, for each validation item whether its answer is good; else empty.</summary>
    public IReadOnlyList<bool> ValidationVerdicts { get; private set; } = [];

    /// <summary>What became of the rows.</summary>
    public DataReport Report { get; } = new();

    /// <summary>Reads and tokenizes everything.</summary>
    /// <param name="options">Which rows and how.</param>
    /// <param name="tokenizer">The model's tokenizer; null when there is none (tokenized rows only).</param>
    /// <param name="chat">The model's chat template; null when there is none.</param>
    /// <param name="progress">Told the number of rows read now and then.</param>
    /// <param name="cancellation">Stops the reading.</param>
    /// <exception cref="LoraSharpException">Faulty options, a malformed row, an empty or all-masked set, a validation set that is the training set.</exception>
    public static TrainingData Load(DataOptions options, Tokenizer? tokenizer, ChatRenderer? chat = null, IProgress<long>? progress = null, CancellationToken cancellation = default)
    {
        IReadOnlyList<string> faults = options.Validate();
        if (faults.Count > 0)
        {
            throw new LoraSharpException(string.Join(Environment.NewLine, faults));
        }

        var data = new TrainingData();
        try
        {
            data.Fill(options, new RowEncoder(tokenizer, chat, options), progress, cancellation);
            return data;
        }
        catch
        {
            data.Dispose();
            throw;
        }
    }

    /// <summary>The rows of sources with what they say, streamed: for evaluation by generation.</summary>
    /// <param name="options">Formats, columns, templates.</param>
    /// <param name="sources">The sources.</param>
    /// <param name="split">Which files of a folder: <c>train</c>, <c>validation</c> or <c>test</c>.</param>
    public static IEnumerable<(DatasetRow Row, RowContent Content)> Rows(DataOptions options, IEnumerable<DataSource> sources, string split = "test")
    {
        foreach (DataSource source in sources)
        {
            RowParser parser = Parser(options, source);
            foreach (DatasetRow row in Limited(DatasetFiles.Expand(source.Path, split).SelectMany(DatasetReader.Read), source.MaxSamples))
            {
                yield return (row, parser.Parse(row));
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _stores.ForEach(s => s.Dispose());

    private void Fill(DataOptions options, RowEncoder encoder, IProgress<long>? progress, CancellationToken cancellation)
    {
        var train = new SourceSet(this, options, encoder, true, progress, cancellation);
        int left = options.MaxSamples;
        foreach (DataSource source in options.Train)
        {
            left -= (int)train.Read(source, "train", left, options.MaxSamples > 0);
        }

        Kind = train.Kind ?? ExampleKind.Plain;
        Check(train, string.Join(", ", options.Train.Select(s => s.Path)));
        if (options.Validation.Sources.Count > 0)
        {
            var validation = new SourceSet(this, options, encoder, false, progress, cancellation);
            foreach (DataSource source in options.Validation.Sources)
            {
                validation.Read(source, "validation", 0, false);
            }

            string names = string.Join(", ", options.Validation.Sources.Select(s => s.Path));
            Check(validation, names);
            if (validation.Kind != Kind)
            {
                throw new LoraSharpException($"{names}: the validation rows are {validation.Kind}, the training rows are {Kind}. Expected the same kind.");
            }

            Train = train.Store;
            Sources = train.Ranges;
            TrainVerdicts = train.Verdicts;
            Validation = validation.Store;
            ValidationVerdicts = validation.Verdicts;
            Compare(train.Hashes, [.. validation.Hashes.Select((h, i) => (h, validation.OriginOf(i)))]);
            if (Report.Overlap.Count == validation.Items && !options.AllowOverlap)
            {
                throw new LoraSharpException($"{names}: every validation row is a training row too, so the validation loss would say nothing. Expected other rows: give data.validation a share such as 0.05, or another file.");
            }
        }
        else
        {
            Split(train, options);
        }
    }

    private void Split(SourceSet train, DataOptions options)
    {
        int items = train.Items;
        int held = options.Validation.Count > 0 ? options.Validation.Count : (int)Math.Ceiling(options.Validation.Share * items);
        if (held >= items)
        {
            throw new LoraSharpException($"data.validation holds out {held} rows, and there are {items}. Expected to leave some for training.");
        }

        if (held == 0)
        {
            (Train, Sources, TrainVerdicts) = (train.Store, train.Ranges, train.Verdicts);
            return;
        }

        int[] order = [.. Enumerable.Range(0, items)];
        // A stream of its own, apart from those of the epochs.
        new StableRandom(options.Seed, 0x76616C6964).Shuffle<int>(order);
        int[] validation = [.. order.Take(held).Order()];
        var isHeld = new HashSet<int>(validation);
        int[] kept = [.. Enumerable.Range(0, items).Where(i => !isHeld.Contains(i))];
        Train = new ExampleSubset(train.Store, Examples(kept));
        Validation = new ExampleSubset(train.Store, Examples(validation));
        Sources = [.. train.Ranges.Select(r => new SourceRange(Below(r.Start), Below(r.Start + r.Count) - Below(r.Start), r.Weight))];
        if (Kind == ExampleKind.Kto)
        {
            TrainVerdicts = [.. kept.Select(i => train.Verdicts[i])];
            ValidationVerdicts = [.. validation.Select(i => train.Verdicts[i])];
        }

        Compare([.. kept.Select(i => train.Hashes[i])], [.. validation.Select(i => (train.Hashes[i], train.OriginOf(i)))]);

        int Below(int item)
        {
            int at = Array.BinarySearch(kept, item);
            return at >= 0 ? at : ~at;
        }

        int[] Examples(int[] of) => Kind == ExampleKind.Preference ? [.. of.SelectMany(i => new[] { 2 * i, (2 * i) + 1 })] : of;
    }

    private void Compare(IReadOnlyList<ulong> train, IReadOnlyList<(ulong Hash, RowOrigin Origin)> validation)
    {
        var known = new HashSet<ulong>(train);
        foreach ((ulong hash, RowOrigin origin) in validation)
        {
            if (known.Contains(hash))
            {
                Report.Overlap.Add(origin);
            }
        }
    }

    private void Check(SourceSet set, string names)
    {
        if (set.Rows == 0)
        {
            throw new LoraSharpException($"{names}: there are no rows. Expected at least one.");
        }

        if (set.Items == 0)
        {
            throw new LoraSharpException($"{names}: all {set.Rows} rows were left out: {string.Join("; ", Report.Dropped.Select(d => $"{d.Value.Count}: {d.Key} (first: {d.Value.First[0]})"))}.");
        }

        if (set.Store.TargetTokens == 0)
        {
            throw new LoraSharpException($"{names}: no token of any row is trained on (all labels are {TrainingExample.Ignored}, or only first tokens are). Look at the mask with: lora data preview RECIPE.yaml");
        }
    }

    private static RowParser Parser(DataOptions options, DataSource source) =>
        new(source.Format ?? options.Format, source.Columns ?? options.Columns, options.PromptTemplate, options.CompletionTemplate);

    private static IEnumerable<DatasetRow> Limited(IEnumerable<DatasetRow> rows, int limit) => limit > 0 ? rows.Take(limit) : rows;

    /// <summary>Sources that are read into one store.</summary>
    private sealed class SourceSet(TrainingData data, DataOptions options, RowEncoder encoder, bool countDuplicates, IProgress<long>? progress, CancellationToken cancellation)
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
            data.Report.SourceList.Add(new SourceReport(source.Path, files.Count, parser.Schema?.Format.Name() ?? "", parser.Schema?.Columns ?? new Dictionary<string, string>(), read));
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
    }

    private ExampleStore Own(ExampleStore store)
    {
        _stores.Add(store);
        return store;
    }
}

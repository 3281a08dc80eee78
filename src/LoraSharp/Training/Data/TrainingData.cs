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
            RowParser parser = SourceSet.Parser(options, source);
            foreach (DatasetRow row in SourceSet.Limited(DatasetFiles.Expand(source.Path, split).SelectMany(DatasetReader.Read), source.MaxSamples))
            {
                yield return (row, parser.Parse(row));
            }
        }
    }

    /// <summary>Micro-batches of the training rows, as their kind is laid out.</summary>
    /// <param name="options">Sizes, order, packing.</param>
    public IBatchSource Plan(BatchOptions options) => Kind switch
    {
        ExampleKind.Preference => new PairPlanner(Train, options, Sources),
        ExampleKind.Kto => new KtoPlanner(Train, TrainVerdicts, options, Sources),
        _ => new BatchPlanner(Train, options, Sources),
    };

    /// <summary>Gives the micro-batches of the validation rows anew, in their order; null when there are none.</summary>
    /// <param name="options">Rows of a micro-batch, the id of padding.</param>
    public Func<IEnumerable<MicroBatch>>? PlanValidation(BatchOptions options) => Validation is not { } rows ? null : Kind switch
    {
        ExampleKind.Preference => () => PairPlanner.InOrder(rows, options.BatchSize, options.PadTokenId),
        ExampleKind.Kto => () => KtoPlanner.InOrder(rows, ValidationVerdicts, options.BatchSize, options.PadTokenId),
        _ => () => BatchPlanner.InOrder(rows, options.BatchSize, options.PadTokenId),
    };

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

    internal ExampleStore Own(ExampleStore store)
    {
        _stores.Add(store);
        return store;
    }
}

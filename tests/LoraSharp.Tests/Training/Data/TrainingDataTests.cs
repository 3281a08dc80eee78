using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Training.Data;

namespace LoraSharp.Tests.Training.Data;

public sealed class TrainingDataTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lorasharp-data").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_share_is_held_out_by_the_seed()
    {
        string path = Write("a.jsonl", Enumerable.Range(0, 101).Select(i => $"{{\"prompt\": \"p{i}\", \"completion\": \"c\"}}"));
        DataOptions options = Options(path) with { Validation = ValidationSource.Parse("0.1") };
        using TrainingData data = Load(options);
        using TrainingData again = Load(options);
        using TrainingData other = Load(options with { Seed = 1 });
        Assert.Equal((90, 11), (data.Train.Count, data.Validation!.Count));
        Assert.Equal(Origins(data.Validation), Origins(again.Validation!));
        Assert.NotEqual(Origins(data.Validation), Origins(other.Validation!));
        Assert.Equal(101, Origins(data.Train).Concat(Origins(data.Validation)).Distinct().Count());
        Assert.Equal(0, data.Report.Overlap.Count);
    }

    [Fact]
    public void Sources_with_weights_keep_their_ranges_after_the_split()
    {
        string a = Write("a.jsonl", Enumerable.Range(0, 30).Select(i => $"{{\"prompt\": \"a{i}\", \"completion\": \"c\"}}"));
        string b = Write("b.jsonl", Enumerable.Range(0, 50).Select(i => $"{{\"text\": \"b{i}\"}}"));
        using TrainingData data = Load(new DataOptions { Train = [new DataSource { Path = a, Weight = 2 }, new DataSource { Path = b, MaxSamples = 20 }], Validation = new ValidationSource { Count = 10 } });
        Assert.Equal((40, 10), (data.Train.Count, data.Validation!.Count));
        Assert.Equal(40, data.Sources.Sum(s => s.Count));
        Assert.All(Enumerable.Range(data.Sources[0].Start, data.Sources[0].Count), i => Assert.Contains("a.jsonl", data.Train[i].Origin));
        Assert.All(Enumerable.Range(data.Sources[1].Start, data.Sources[1].Count), i => Assert.Contains("b.jsonl", data.Train[i].Origin));
        Assert.Equal(["prompt_completion", "text"], data.Report.Sources.Select(s => s.Format));
    }

    [Fact]
    public void Max_samples_counts_over_all_sources()
    {
        string a = Write("a.jsonl", Enumerable.Range(0, 30).Select(i => $"{{\"text\": \"a{i}\"}}"));
        string b = Write("b.jsonl", Enumerable.Range(0, 30).Select(i => $"{{\"text\": \"b{i}\"}}"));
        using TrainingData data = Load(Options(a, b) with { MaxSamples = 40 });
        Assert.Equal(40, data.Train.Count);
        Assert.Equal(10, data.Sources[1].Count);
    }

    [Fact]
    public void Validation_equal_to_training_is_refused_and_a_part_of_it_reported()
    {
        string[] rows = [.. Enumerable.Range(0, 10).Select(i => $"{{\"text\": \"row {i}\"}}")];
        string train = Write("a.jsonl", rows);
        string copy = Write("b.jsonl", rows.Reverse());
        string partly = Write("c.jsonl", rows.Take(3).Append("{\"text\": \"new\"}"));
        foreach (string validation in (string[])[train, copy])
        {
            Assert.Contains("every validation row is a training row too", Assert.Throws<LoraSharpException>(() => Load(Options(train) with { Validation = ValidationSource.Parse(validation) })).Message);
        }

        using TrainingData data = Load(Options(train) with { Validation = ValidationSource.Parse(partly) });
        Assert.Equal(3, data.Report.Overlap.Count);
        Assert.Contains("3 validation rows are training rows too", Assert.Single(data.Report.Warnings()));
        using TrainingData allowed = Load(Options(train) with { Validation = ValidationSource.Parse(copy), AllowOverlap = true });
        Assert.Equal(10, allowed.Report.Overlap.Count);
    }

    [Fact]
    public void What_is_cut_dropped_and_doubled_is_reported()
    {
        string path = Write("a.jsonl", ["{\"prompt\": \"a\", \"completion\": \"b\"}", "{\"prompt\": \"a\", \"completion\": \"b\"}", "{\"prompt\": \"a\", \"completion\": \"bcdefghijkl\"}", "{\"prompt\": \"a\", \"completion\": \"\"}"]);
        using TrainingData data = Load(Options(path) with { MaxLength = 8 });
        Assert.Equal((3, 4L, 1L, 5L, 1L), (data.Train.Count, data.Report.Rows, data.Report.Cut.Count, data.Report.CutTokens, data.Report.Duplicates.Count));
        Assert.Equal($"{path}:4", data.Report.Dropped["the completion is empty"].First[0]);
        Assert.Equal(3, data.Report.Warnings().Count);
    }

    [Theory]
    [InlineData("", "there are no rows")]
    [InlineData("{\"prompt\": \"a\", \"completion\": \"\"}", "all 1 rows were left out: 1: the completion is empty")]
    [InlineData("{\"input_ids\": [1, 2], \"labels\": [-100, -100]}", "no token of any row is trained on")]
    public void Empty_and_masked_sets_are_refused(string row, string expected) =>
        Assert.Contains(expected, Assert.Throws<LoraSharpException>(() => Load(Options(Write("a.jsonl", [row])))).Message);

    [Theory]
    [InlineData("{\"input_ids\": [1, 900], \"labels\": [1, 2]}", "a.jsonl:1: 'input_ids' holds 900. Expected ids below 300")]
    [InlineData("{\"input_ids\": [1, 2], \"labels\": [1, 300]}", "'labels' holds 300. Expected ids below 300, or -100")]
    [InlineData("{\"input_ids\": [1, 2], \"labels\": [1, -1]}", "'labels' holds -1")]
    public void Ids_beyond_the_vocabulary_are_refused(string row, string expected) =>
        Assert.Contains(expected, Assert.ThrowsAny<LoraSharpException>(() => Load(Options(Write("a.jsonl", [row])) with { VocabularySize = 300 })).Message);

    [Fact]
    public void Mixed_schemas_in_a_file_are_refused()
    {
        string path = Write("a.jsonl", ["{\"prompt\": \"a\", \"completion\": \"b\"}", "{\"text\": \"x\"}"]);
        Assert.Contains($"{path}:2", Assert.Throws<DatasetException>(() => Load(Options(path))).Message);
        string kinds = Write("b.jsonl", ["{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}"]);
        Assert.Contains("can't be mixed", Assert.Throws<LoraSharpException>(() => Load(Options(Write("c.jsonl", ["{\"text\": \"x\"}"]), kinds))).Message);
    }

    [Fact]
    public void Many_workers_give_what_one_gives()
    {
        string path = Write("a.jsonl", Enumerable.Range(0, 3000).Select(i => $"{{\"prompt\": \"p{i}\", \"completion\": \"{new string('x', i % 50)}\"}}"));
        using TrainingData one = Load(Options(path));
        using TrainingData four = Load(Options(path) with { Workers = 4 });
        Assert.Equal((one.Train.Fingerprint, one.Train.Count), (four.Train.Fingerprint, four.Train.Count));
        string broken = Write("b.jsonl", Enumerable.Range(0, 500).Select(i => i is 300 or 301 ? "{\"prompt\": 1, \"completion\": \"x\"}" : "{\"prompt\": \"p\", \"completion\": \"x\"}"));
        Assert.Contains($"{broken}:301", Assert.Throws<DatasetException>(() => Load(Options(broken) with { Workers = 4 })).Message);
    }

    [Fact]
    public void Preferences_split_in_pairs_and_batch_chosen_before_rejected()
    {
        string path = Write("a.jsonl", Enumerable.Range(0, 10).Select(i => $"{{\"prompt\": \"p{i}\", \"chosen\": \"good\", \"rejected\": \"bad\"}}"));
        using TrainingData data = Load(Options(path) with { Validation = new ValidationSource { Count = 4 } });
        Assert.Equal((ExampleKind.Preference, 12, 8), (data.Kind, data.Train.Count, data.Validation!.Count));
        var planner = new PairPlanner(data.Train, new BatchOptions { BatchSize = 4, Epochs = 1 }, data.Sources);
        Assert.Equal(2, planner.TotalSteps);
        MicroBatch batch = Assert.Single(planner.NextStep());
        Assert.Equal(8, batch.Rows);
        Assert.Equal(batch.Origins.Take(4), batch.Origins.Skip(4));
        for (int row = 0; row < 4; row++)
        {
            string Text(int r) => new CharTokenizer().Decode([.. batch.InputIds.Skip(r * batch.Length).Take(batch.Length).Where(id => id != 0).Select(id => (int)id)]);
            Assert.EndsWith("good</s>", Text(row));
            Assert.EndsWith("bad</s>", Text(row + 4));
            Assert.Equal(Text(row)[..2], Text(row + 4)[..2]);
        }

        Assert.Equal(2, Assert.Single(planner.NextStep()).Rows / 2);
        Assert.Empty(planner.NextStep());
    }

    [Fact]
    public void Kto_rows_carry_their_verdict_into_the_batch_with_mismatched_answers_behind()
    {
        string path = Write("a.jsonl", Enumerable.Range(0, 6).Select(i => $"{{\"prompt\": \"p{i}\", \"completion\": \"c{i}\", \"label\": {(i % 2 == 0 ? "true" : "false")}}}"));
        using TrainingData data = Load(Options(path));
        Assert.Equal([true, false, true, false, true, false], data.TrainVerdicts);
        var planner = new KtoPlanner(data.Train, data.TrainVerdicts, new BatchOptions { BatchSize = 3, Shuffle = false });
        MicroBatch batch = Assert.Single(planner.NextStep());
        Assert.Equal([true, false, true], batch.Desirable!);
        string[] rows = [.. Enumerable.Range(0, 6).Select(r => new CharTokenizer().Decode([.. batch.InputIds.Skip(r * batch.Length).Take(batch.Length).Where(id => id != 0).Select(id => (int)id)]))];
        Assert.Equal(["p0c0</s>", "p1c1</s>", "p2c2</s>", "p0c1</s>", "p1c2</s>", "p2c0</s>"], rows);
    }

    [Theory]
    [InlineData("0.05", 0.05, 0, 0)]
    [InlineData("0", 0, 0, 0)]
    [InlineData(null, 0, 0, 0)]
    [InlineData("200", 0, 200, 0)]
    [InlineData("dev.jsonl", 0, 0, 1)]
    public void Validation_is_a_share_a_number_or_a_file(string? text, double share, int count, int sources)
    {
        ValidationSource source = ValidationSource.Parse(text);
        Assert.Equal((share, count, sources), (source.Share, source.Count, source.Sources.Count));
    }

    [Fact]
    public void Faulty_options_are_all_listed()
    {
        var options = new DataOptions { Train = [], MaxLength = 1, Workers = 0, PromptTemplate = "{x" };
        Assert.Equal(4, options.Validate().Count);
        Assert.Throws<LoraSharpException>(() => ValidationSource.Parse("1.5"));
    }

    private string Write(string name, IEnumerable<string> lines)
    {
        string path = Path.Combine(_folder, name);
        File.WriteAllLines(path, lines);
        return path;
    }

    private static string[] Origins(IExamples examples) => [.. Enumerable.Range(0, examples.Count).Select(i => examples[i].Origin)];

    private static DataOptions Options(params string[] paths) => new() { Train = [.. paths.Select(p => new DataSource { Path = p })] };

    private static TrainingData Load(DataOptions options) => TrainingData.Load(options, new CharTokenizer(), RowEncoderTests.ChatMl);
}

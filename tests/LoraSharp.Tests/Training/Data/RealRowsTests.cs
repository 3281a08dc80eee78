using System.Diagnostics;
using System.Runtime.InteropServices;
using LoraSharp.Formats;
using LoraSharp.Formats.Datasets;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Training.Data;

namespace LoraSharp.Tests.Training.Data;

/// <summary>Real rows through a real tokenizer and its chat template.</summary>
public sealed class RealRowsTests(ITestOutputHelper output)
{
    [Fact]
    public void Rows_of_e2e_become_the_batches_that_transformers_trained_on()
    {
        ModelLanguage smol = Smol();
        string path = Fixtures.ReferenceOrSkip("data/e2e_nlg/train.jsonl.gz");
        using var golden = SafetensorsFile.Open(Fixtures.ReferenceOrSkip("fixtures/real/lora_e2e/golden.safetensors"));
        long[] ids = Longs(golden, "input_ids");
        long[] labels = Longs(golden, "labels");
        long[] mask = Longs(golden, "attention_mask");
        const int Steps = 20, Rows = 4, Length = 96;
        using TrainingData data = TrainingData.Load(new DataOptions { Train = [new DataSource { Path = path }], MaxLength = Length, MaxSamples = Steps * Rows }, smol.Tokenizer, cancellation: TestContext.Current.CancellationToken);
        var planner = new BatchPlanner(data.Train, new BatchOptions { BatchSize = Rows, Shuffle = false, PadToMaxLength = true, MaxLength = Length, PadTokenId = 2 });
        for (int step = 0; step < Steps; step++)
        {
            MicroBatch batch = Assert.Single(planner.NextStep());
            int start = step * Rows * Length;
            Assert.Equal(ids.AsSpan(start, Rows * Length).ToArray(), batch.InputIds);
            Assert.Equal(labels.AsSpan(start, Rows * Length).ToArray(), batch.Labels);
            Assert.Equal(mask.AsSpan(start, Rows * Length).ToArray(), batch.Sequences.Select(s => (long)s));
        }
    }

    [Fact]
    public void All_of_e2e_is_tokenized_at_100_thousand_rows_a_minute_and_packs_densely()
    {
        ModelLanguage smol = Smol();
        string path = Fixtures.ReferenceOrSkip("data/e2e_nlg/train.jsonl.gz");
        var watch = Stopwatch.StartNew();
        using TrainingData data = TrainingData.Load(new DataOptions { Train = [new DataSource { Path = path }] }, smol.Tokenizer, cancellation: TestContext.Current.CancellationToken);
        double rate = data.Train.Count / watch.Elapsed.TotalMinutes;
        PackingReport packed = new BatchPlanner(data.Train, new BatchOptions { Packing = true, MaxLength = 1024 }).Packing();
        PackingReport padded = new BatchPlanner(data.Train, new BatchOptions { BatchSize = 4 }).Packing();
        PackingReport grouped = new BatchPlanner(data.Train, new BatchOptions { BatchSize = 4, GroupByLength = true }).Packing();
        output.WriteLine($"{rate:N0} rows/min; packed {packed} waste {packed.Waste:P2}; padded {padded.Waste:P2}; grouped {grouped.Waste:P2}; duplicates {data.Report.Duplicates.Count}");
        Assert.Equal(42061, data.Train.Count);
        Assert.True(rate > 100_000, $"{rate:N0} rows/min");
        Assert.True(packed.Waste < 0.01 && padded.Waste > 0.1, $"{packed.Waste} {padded.Waste}");
    }

    [Theory]
    [InlineData("formats/glaive_toolcall_en_demo.json.gz", 300)]
    [InlineData("formats/dpo_en_demo.json.gz", 300)]
    [InlineData("formats/alpaca_en_demo.json.gz", 999)]
    [InlineData("instruct1100/preference.jsonl.gz", 1100)]
    [InlineData("banking77/test.jsonl.gz", 3080)]
    public void Published_sets_become_tokens(string file, int rows)
    {
        ModelLanguage smol = Smol();
        using TrainingData data = TrainingData.Load(new DataOptions { Train = [new DataSource { Path = Fixtures.ReferenceOrSkip("data/" + file) }], MaxLength = 4096 }, smol.Tokenizer, smol.ChatTemplate!.Renderer(), cancellation: TestContext.Current.CancellationToken);
        Assert.Equal(rows, data.Report.Rows);
        output.WriteLine(string.Join('\n', data.Report.Warnings()));
        int items = data.Kind == ExampleKind.Preference ? data.Train.Count / 2 : data.Train.Count;
        Assert.Equal(rows - data.Report.Dropped.Sum(d => d.Value.Count), items);
    }

    [Theory]
    [InlineData("smollm2")]
    [InlineData("qwen3")]
    [InlineData("llama3_1")]
    public void Answers_are_found_in_real_chat_templates(string model)
    {
        ModelLanguage language = ModelLanguage.Open(model == "smollm2" ? SmolFolder() : Fixtures.ReferenceOrSkip($"tokenizers-npm/{model}"));
        var row = new DatasetRow(new RowOrigin("f", 1), System.Text.Json.Nodes.JsonNode.Parse("""
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name two fruits."}, {"role": "assistant", "content": "Apples and pears."},
             {"role": "user", "content": "One more?"}, {"role": "assistant", "content": "Plums."}]}
            """)!.AsObject());
        TrainingExample example = Assert.Single(new RowEncoder(language.Tokenizer, language.ChatTemplate!.Renderer(), new DataOptions { Train = [] }).Encode(row, new RowParser().Parse(row)).Examples);
        List<string> trained = [];
        for (int i = 0; i < example.InputIds.Length; i++)
        {
            if (example.Labels[i] == TrainingExample.Ignored)
            {
                continue;
            }

            int start = i;
            while (i < example.InputIds.Length && example.Labels[i] != TrainingExample.Ignored)
            {
                i++;
            }

            trained.Add(language.Tokenizer!.Decode(example.InputIds[start..i]));
        }

        string end = model == "llama3_1" ? "<|eot_id|>" : "<|im_end|>";
        string thoughts = model == "qwen3" ? "<think>\n\n</think>\n\n" : "";
        Assert.Equal(["Apples and pears." + end, thoughts + "Plums." + end], trained);
    }

    private static ModelLanguage Smol() => ModelLanguage.Open(SmolFolder());

    private static string SmolFolder() => Fixtures.ReferenceOrSkip("models/smollm2-135m-instruct");

    private static long[] Longs(SafetensorsFile file, string name)
    {
        TensorData data = file.Read(name);
        return MemoryMarshal.Cast<byte, long>(data.Slice(0, (int)data.Info.ByteCount)).ToArray();
    }
}

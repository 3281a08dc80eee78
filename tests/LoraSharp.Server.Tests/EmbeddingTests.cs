using System.ClientModel;
using System.Net;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Inference;
using LoraSharp.Serving;
using OpenAI;
using OpenAI.Embeddings;

namespace LoraSharp.Server.Tests;

/// <summary>Vectors of texts: against transformers' logits, among themselves, and over HTTP.</summary>
public sealed class EmbeddingTests
{
    private static string Model => Path.Combine(Fixtures.Root(), "src", "LoraSharp.Cli", "assets", "tiny-base");

    [Fact]
    public async Task The_output_projection_of_a_vector_points_where_the_reference_logits_do()
    {
        // logits = W·h, so W times the hidden state at length 1 is the reference's logits but for one positive factor.
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"));
        using var golden = SafetensorsFile.Open(Path.Combine(Fixtures.Path("models/llama"), "golden.safetensors"));
        using var weights = SafetensorsFile.Open(Path.Combine(Fixtures.Path("models/llama"), "model.safetensors"));
        long[] ids = Longs(golden, "input_ids");
        float[] logits = Floats(golden, "logits");
        float[] head = Floats(weights, "lm_head.weight");
        int rows = (int)golden.Tensors["logits"].Shape[0], length = (int)golden.Tensors["logits"].Shape[1], v = (int)golden.Tensors["logits"].Shape[2];
        int[][] inputs = [.. Enumerable.Range(0, rows).Select(r => ids.Skip(r * length).Take(length).Select(i => (int)i).ToArray())];

        // Beside shorter ones, so that there is padding.
        IReadOnlyList<float[]> vectors = await server.Engine.EmbedAsync(new EmbeddingRequest { Inputs = [inputs[0][..3], .. inputs, inputs[0][..5]], Pooling = EmbeddingPooling.Last }, TestContext.Current.CancellationToken);

        for (int row = 0; row < rows; row++)
        {
            float[] vector = vectors[row + 1];
            double[] got = [.. Enumerable.Range(0, v).Select(t => Dot(head.AsSpan(t * vector.Length, vector.Length), vector))];
            ReadOnlySpan<float> expected = logits.AsSpan(((row * length) + length - 1) * v, v);
            double dot = 0, a = 0, b = 0;
            for (int t = 0; t < v; t++)
            {
                dot += got[t] * expected[t];
                a += got[t] * got[t];
                b += (double)expected[t] * expected[t];
            }

            Assert.Equal(1, dot / Math.Sqrt(a * b), 1e-6);
        }
    }

    [Fact]
    public async Task A_vector_is_the_same_alone_and_among_others_and_of_length_one()
    {
        await using RunningServer server = await RunningServer.StartAsync(Fixtures.Path("models/llama"), new Dictionary<string, string> { ["a"] = Fixtures.Path("mixed_batch/a") });
        var random = new Random(2);
        int[][] inputs = [.. Enumerable.Range(0, 40).Select(i => Enumerable.Range(0, 1 + (i * 7 % 60)).Select(_ => random.Next(3, 160)).ToArray())];
        foreach (EmbeddingPooling pooling in Enum.GetValues<EmbeddingPooling>())
        {
            foreach (string? adapter in (string?[])[null, "a"])
            {
                IReadOnlyList<float[]> together = await server.Engine.EmbedAsync(new EmbeddingRequest { Inputs = inputs, Adapter = adapter, Pooling = pooling }, TestContext.Current.CancellationToken);
                for (int i = 0; i < inputs.Length; i += 7)
                {
                    float[] alone = (await server.Engine.EmbedAsync(new EmbeddingRequest { Inputs = [inputs[i]], Adapter = adapter, Pooling = pooling }, TestContext.Current.CancellationToken))[0];
                    Assert.Equal(1, Dot(alone, alone), 1e-5);
                    Assert.All(alone.Zip(together[i]), p => Assert.Equal(p.First, p.Second, 1e-4f));
                }
            }
        }
    }

    [Fact]
    public async Task OpenAis_client_gets_vectors_of_texts_and_of_fewer_dimensions()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        var client = new EmbeddingClient("base", new ApiKeyCredential("none"), new OpenAIClientOptions { Endpoint = new Uri(server.Client.BaseAddress!, "v1") });
        string[] texts = ["The river is wide.", "A wide river.", "Three taxes"];

        OpenAIEmbeddingCollection whole = await client.GenerateEmbeddingsAsync(texts, cancellationToken: TestContext.Current.CancellationToken);
        OpenAIEmbeddingCollection few = await client.GenerateEmbeddingsAsync(texts, new EmbeddingGenerationOptions { Dimensions = 16 }, TestContext.Current.CancellationToken);

        Assert.Equal(texts.Sum(t => server.Loaded.Tokenizer.Encode(t).Length), whole.Usage.InputTokenCount);
        for (int i = 0; i < texts.Length; i++)
        {
            float[] vector = whole[i].ToFloats().ToArray(), shortened = few[i].ToFloats().ToArray();
            Assert.Equal((256, 16), (vector.Length, shortened.Length));
            Assert.Equal(1, Dot(shortened, shortened), 1e-5);
            double norm = Math.Sqrt(Dot(vector.AsSpan(0, 16), vector.AsSpan(0, 16)));
            Assert.All(shortened.Zip(vector), p => Assert.Equal(p.Second / norm, p.First, 1e-5));
        }

        Assert.True(Dot(whole[0].ToFloats().Span, whole[1].ToFloats().Span) > Dot(whole[0].ToFloats().Span, whole[2].ToFloats().Span));
    }

    [Fact]
    public async Task Texts_and_their_ids_give_the_same_numbers()
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        int[] ids = server.Loaded.Tokenizer.Encode("Once upon a time");
        JsonNode list = new JsonArray([.. ids.Select(i => (JsonNode)i)]);
        async Task<JsonArray> Ask(JsonNode input) => (await server.PostAsync("/v1/embeddings", new JsonObject { ["input"] = input, ["encoding_format"] = "float" })).Body["data"]![0]!["embedding"]!.AsArray();

        JsonArray text = await Ask("Once upon a time");
        Assert.Equal(text.Select(n => (float)n!), (await Ask(list.DeepClone())).Select(n => (float)n!));
        Assert.Equal(text.Select(n => (float)n!), (await Ask(new JsonArray(list.DeepClone()))).Select(n => (float)n!));
    }

    [Theory]
    [InlineData("""{}""", HttpStatusCode.BadRequest, "input is missing")]
    [InlineData("""{"input":""}""", HttpStatusCode.BadRequest, "empty")]
    [InlineData("""{"input":[]}""", HttpStatusCode.BadRequest, "expected a text, token ids")]
    [InlineData("""{"input":["x",7]}""", HttpStatusCode.BadRequest, "input[1]")]
    [InlineData("""{"input":[99999]}""", HttpStatusCode.BadRequest, "outside the vocabulary")]
    [InlineData("""{"input":"x","encoding_format":"hex"}""", HttpStatusCode.BadRequest, "float or base64")]
    [InlineData("""{"input":"x","dimensions":257}""", HttpStatusCode.BadRequest, "Expected 1 to 256")]
    [InlineData("""{"input":"x","model":"nope"}""", HttpStatusCode.NotFound, "There are: base")]
    public async Task Requests_that_make_no_sense_are_refused(string body, HttpStatusCode expected, string message)
    {
        await using RunningServer server = await RunningServer.StartAsync(Model);
        (HttpStatusCode status, JsonObject answer) = await server.PostAsync("/v1/embeddings", (JsonObject)JsonNode.Parse(body)!);
        Assert.Equal(expected, status);
        Assert.Contains(message, (string?)answer["error"]!["message"], StringComparison.Ordinal);
    }

    private static long[] Longs(SafetensorsFile file, string name) => MemoryMarshal.Cast<byte, long>(file.Read(name).Slice(0, (int)file.Tensors[name].ByteCount)).ToArray();

    private static float[] Floats(SafetensorsFile file, string name) => MemoryMarshal.Cast<byte, float>(file.Read(name).Slice(0, (int)file.Tensors[name].ByteCount)).ToArray();

    private static double Dot(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
        {
            sum += (double)a[i] * b[i];
        }

        return sum;
    }
}

using System.Buffers.Binary;
using System.Text;
using System.Text.Json.Nodes;
using LoraSharp.Formats.Chat;
using LoraSharp.Formats.Peft;
using LoraSharp.Formats.Safetensors;
using LoraSharp.Formats.Tokenization;

namespace LoraSharp.Formats.Tests.Damage;

/// <summary>Every JSON file that is read, with its meaning damaged.</summary>
public sealed class DamagedJsonTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("lorasharp-damage-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [InlineData("tiny-base")]
    [InlineData("model WordPiece")]
    [InlineData("model Unigram byte_fallback")]
    [InlineData("post_processor Sequence")]
    [InlineData("post_processor Roberta")]
    [InlineData("normalizer Sequence")]
    [InlineData("model BPE byte_fallback")]
    public void Tokenizers(string name)
    {
        string json = TokenizerText(name);
        Try("tokenizer.json", json, 400, () => Use(TokenizerLoader.FromFolder(_folder.FullName)));
    }

    [Fact]
    public void Tokenizer_configurations()
    {
        File.WriteAllText(InFolder("tokenizer.json"), TokenizerText("post_processor Roberta"));
        const string Json = """{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null, "add_bos_token": true, "additional_special_tokens": ["<x>"], "chat_template": [{"name": "default", "template": "{% for m in messages %}{{ m.content }}{% endfor %}"}, {"name": "tool_use", "template": "x"}]}""";
        Try("tokenizer_config.json", Json, 500, OpenAll);
        File.Delete(InFolder("tokenizer_config.json"));
        Try("special_tokens_map.json", """{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "additional_special_tokens": ["<x>", {"content": "<y>"}]}""", 300, OpenAll);
        Try("chat_template.json", """{"chat_template": "{{ messages }}"}""", 100, OpenAll);

        void OpenAll()
        {
            Use(TokenizerLoader.FromFolder(_folder.FullName));
            _ = ChatTemplate.FromFolder(_folder.FullName)?.Render([new JsonObject { ["role"] = "user", ["content"] = "hi" }], true, []);
        }
    }

    [Theory]
    [InlineData("vocab.json")]
    [InlineData("tokenizer_config.json")]
    [InlineData("added_tokens.json")]
    [InlineData("config.json")]
    public void Old_tokenizer_folders(string damaged)
    {
        JsonNode model = JsonNode.Parse(TokenizerText("post_processor Roberta"))!["model"]!;
        var files = new Dictionary<string, string>
        {
            ["vocab.json"] = model["vocab"]!.ToJsonString(),
            ["tokenizer_config.json"] = """{"tokenizer_class": "RobertaTokenizer", "mask_token": {"content": "<mask>", "lstrip": true}, "additional_special_tokens": ["<x>"], "added_tokens_decoder": {"0": {"content": "<unk>", "special": true}}}""",
            ["added_tokens.json"] = """{"<unk>": 0, "a": 5}""",
            ["config.json"] = """{"model_type": "roberta", "tokenizer_class": "RobertaTokenizer"}""",
            ["merges.txt"] = "#version: 0.2\n",
        };
        if (damaged is "added_tokens.json" or "config.json")
        {
            files["tokenizer_config.json"] = damaged == "config.json" ? "{}" : """{"tokenizer_class": "GPT2Tokenizer"}""";
        }

        foreach ((string name, string content) in files)
        {
            File.WriteAllText(InFolder(name), content);
        }

        Try(damaged, files[damaged], 300, () => Use(TokenizerLoader.FromFolder(_folder.FullName)));
    }

    [Theory]
    [InlineData("all_linear")]
    [InlineData("patterns")]
    [InlineData("trainable_tokens")]
    [InlineData("layers_to_transform")]
    public void Adapter_configurations(string name)
    {
        string source = Fixtures.Path("adapters/" + name);
        File.Copy(Path.Combine(source, "adapter_model.safetensors"), InFolder("adapter_model.safetensors"));
        Try("adapter_config.json", File.ReadAllText(Path.Combine(source, "adapter_config.json")), 400, () => AdapterFolder.Open(_folder.FullName).Dispose());
    }

    [Fact]
    public void Headers_of_adapters()
    {
        string source = Fixtures.Path("adapters/all_linear");
        File.Copy(Path.Combine(source, "adapter_config.json"), InFolder("adapter_config.json"));
        byte[] whole = File.ReadAllBytes(Path.Combine(source, "adapter_model.safetensors"));
        int length = (int)BinaryPrimitives.ReadInt64LittleEndian(whole);
        string header = Encoding.UTF8.GetString(whole, 8, length);
        byte[] data = whole[(8 + length)..];
        DamagedFile.Try(
            DamagedFile.Count(500),
            3,
            random =>
            {
                byte[] mutated = Encoding.UTF8.GetBytes(JsonMutations.Mutate(header, random));
                byte[] prefix = new byte[8];
                BinaryPrimitives.WriteInt64LittleEndian(prefix, mutated.Length);
                File.WriteAllBytes(InFolder("adapter_model.safetensors"), [.. prefix, .. mutated, .. data]);
                return Encoding.UTF8.GetString(mutated);
            },
            () => AdapterFolder.Open(_folder.FullName).Dispose());
    }

    [Fact]
    public void Indexes_of_shards()
    {
        File.Copy(Fixtures.Path("models/llama/model.safetensors"), InFolder("a.safetensors"));
        using (SafetensorsFile file = SafetensorsFile.Open(InFolder("a.safetensors")))
        {
            var map = new JsonObject(file.Tensors.Keys.Select(name => KeyValuePair.Create(name, (JsonNode?)"a.safetensors")));
            Try("model.safetensors.index.json", new JsonObject { ["metadata"] = new JsonObject { ["total_size"] = 1 }, ["weight_map"] = map }.ToJsonString(), 400, () => SafetensorsCheckpoint.Open(_folder.FullName).Dispose());
        }
    }

    private static string TokenizerText(string name)
    {
        if (name == "tiny-base")
        {
            return File.ReadAllText(Fixtures.Path("tokenizers/tiny-base/tokenizer.json"));
        }

        JsonNode file = JsonNode.Parse(File.ReadAllText(Fixtures.Path("tokenizers/components/components.json")))!;
        JsonNode json = file["cases"]!.AsArray().First(entry => (string)entry!["name"]! == name)!["tokenizer"]!.DeepClone();
        foreach (string shared in new[] { "vocab", "merges" })
        {
            if (json["model"]![shared] is JsonValue)
            {
                json["model"]![shared] = file[shared]!.DeepClone();
            }
        }

        return json.ToJsonString();
    }

    private static void Use(Tokenizer tokenizer)
    {
        foreach (string text in (string[])["Hello  wörld <s> 12", "日本 😀\r\n", ""])
        {
            TokenizedText tokens = tokenizer.EncodeWithOffsets(text);
            _ = tokenizer.Decode(tokens.Ids, skipSpecialTokens: true);
            _ = tokenizer.Encode(text, addSpecialTokens: false);
            if (tokens.Ids.Length > 0)
            {
                _ = tokenizer.TokenBytes(tokens.Ids[0]);
            }
        }
    }

    private void Try(string file, string json, int count, Action open) => DamagedFile.Try(
        DamagedFile.Count(count),
        file.Length,
        random =>
        {
            string mutated = JsonMutations.Mutate(json, random);
            File.WriteAllText(InFolder(file), mutated);
            return mutated;
        },
        open);

    private string InFolder(string name) => Path.Combine(_folder.FullName, name);
}

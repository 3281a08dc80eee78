using System.Text.Json.Nodes;
using LoraSharp.Formats.Peft;

namespace LoraSharp.Formats.Tests.Peft;

public sealed class PeftConfigTests
{
    public static TheoryData<string> Folders => [.. Directory.EnumerateDirectories(Fixtures.Path("adapters")).Select(f => Path.GetFileName(f)!).Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Folders))]
    public void What_is_read_is_written_byte_for_byte_as_peft_wrote_it(string name)
    {
        string path = Path.Combine(Fixtures.Path("adapters/" + name), PeftConfig.FileName);
        Assert.Equal(File.ReadAllText(path), PeftConfig.Read(path).ToText());
    }

    [Fact]
    public void A_new_configuration_has_exactly_the_fields_of_peft()
    {
        string reference = File.ReadAllText(Path.Combine(Fixtures.Path("adapters/plain_qv"), PeftConfig.FileName));
        Assert.Equal(reference, new PeftConfig { Rank = 8, Alpha = 16, TargetModules = ModuleSelector.List(["q_proj", "v_proj"]) }.ToText());
    }

    [Fact]
    public void Unknown_fields_are_kept()
    {
        var json = JsonNode.Parse("""{"peft_type":"LORA","r":4,"from_the_future":{"a":[1,2]},"task_type":"CAUSAL_LM"}""")!.AsObject();
        Assert.Equal("""{"a":[1,2]}""", PeftConfig.Parse(json, "x").ToJson()["from_the_future"]!.ToJsonString());
    }

    [Fact]
    public void Every_wrong_field_is_named_at_once()
    {
        var json = JsonNode.Parse("""{"peft_type":"LOHA","r":"four","lora_alpha":null,"bias":"some","target_modules":3,"use_qalora":true}""")!.AsObject();
        string message = Assert.Throws<MalformedFileException>(() => PeftConfig.Parse(json, "folder/adapter_config.json")).Message;
        Assert.All(["folder/adapter_config.json", "LOHA", "r: expected a whole number", "bias", "target_modules", "QA-LoRA"], part => Assert.Contains(part, message, StringComparison.Ordinal));
    }

    [Fact]
    public void A_folder_without_configuration_says_what_it_is()
    {
        string message = Assert.Throws<MalformedFileException>(() => AdapterFolder.Open(Fixtures.Path("models/llama"))).Message;
        Assert.Contains("whole model", message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_pickle_is_refused_with_the_way_out()
    {
        string folder = Directory.CreateTempSubdirectory().FullName;
        try
        {
            File.Copy(Path.Combine(Fixtures.Path("adapters/plain_qv"), PeftConfig.FileName), Path.Combine(folder, PeftConfig.FileName));
            File.WriteAllBytes(Path.Combine(folder, "adapter_model.bin"), [0x80, 2]);
            Assert.Contains("save_pretrained", Assert.Throws<MalformedFileException>(() => AdapterFolder.Open(folder)).Message, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, true);
        }
    }

    [Theory]
    [MemberData(nameof(Folders))]
    public void Every_key_of_every_fixture_has_its_place(string name)
    {
        using AdapterFolder folder = AdapterFolder.Open(Fixtures.Path("adapters/" + name));
        Assert.Equal(folder.Tensors.Tensors.Count, folder.Parts.Count);
        Assert.All(folder.Parts.Where(p => p.Part != AdapterPart.Saved), p => Assert.Equal(p.Key, AdapterTensor.KeyOf(p.Module, p.Part)));
    }
}

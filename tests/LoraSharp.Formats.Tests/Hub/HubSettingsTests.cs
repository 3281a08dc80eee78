using LoraSharp.Formats.Hub;

namespace LoraSharp.Formats.Tests.Hub;

public class HubSettingsTests
{
    [Theory]
    [InlineData("org/name", "org/name", "main")]
    [InlineData("gpt2", "gpt2", "main")]
    [InlineData("org/na.me_1@refs/pr/1", "org/na.me_1", "refs/pr/1")]
    [InlineData("org/name@v1.0", "org/name", "v1.0")]
    public void Names_are_read(string text, string repository, string revision)
    {
        Assert.True(HubName.TryParse(text, out HubName? name));
        Assert.Equal((repository, revision), (name!.Repository, name.Revision));
        Assert.Equal(text, name.ToString());
    }

    [Theory]
    [InlineData("")]
    [InlineData("a/b/c")]
    [InlineData("../b")]
    [InlineData("a/..")]
    [InlineData("a--b/c")]
    [InlineData("/abs")]
    [InlineData("a/b@")]
    [InlineData("a/b@../x")]
    [InlineData("a/b@x//y")]
    [InlineData("a/b\n")]
    [InlineData("a b/c")]
    [InlineData("a/b.git")]
    [InlineData("./folder")]
    public void What_cannot_be_a_name_is_none(string text)
    {
        Assert.False(HubName.TryParse(text, out _));
        Assert.Null(new HubCache("/nowhere").ResolveSnapshot(text));
    }

    [Fact]
    public void The_environment_is_read_as_huggingface_hub_does()
    {
        HubSettings plain = From(("HOME", "/home/u"));
        Assert.Equal("/home/u/.cache/huggingface/hub", plain.CacheFolder);
        Assert.Equal("https://huggingface.co/", plain.Endpoint.AbsoluteUri);
        Assert.False(plain.Offline);
        Assert.Null(plain.Token);
        Assert.Equal("/x/huggingface/hub", From(("XDG_CACHE_HOME", "/x")).CacheFolder);
        Assert.Equal("/hf/hub", From(("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/x")).CacheFolder);
        Assert.Equal("/c", From(("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")).CacheFolder);
        Assert.Equal("/home/u/c", From(("HOME", "/home/u"), ("HF_HUB_CACHE", "~/c")).CacheFolder);
        Assert.Equal("/home/u/c/hub", From(("HOME", "/home/u"), ("HF_HOME", "$HOME/c")).CacheFolder);
        Assert.Equal("/home/u/c", From(("HOME", "/home/u"), ("HF_HUB_CACHE", "${HOME}/c")).CacheFolder);
        Assert.Equal("/$NONE/c", From(("HF_HUB_CACHE", "/$NONE/c")).CacheFolder);
        // What transformers 4 was told still finds its models; huggingface_hub's own variables come first.
        Assert.Equal("/t", From(("TRANSFORMERS_CACHE", "/t"), ("XDG_CACHE_HOME", "/x")).CacheFolder);
        Assert.Equal("/hf/hub", From(("TRANSFORMERS_CACHE", "/t"), ("HF_HOME", "/hf")).CacheFolder);
        Assert.Equal("/c", From(("TRANSFORMERS_CACHE", "/t"), ("HF_HUB_CACHE", "/c")).CacheFolder);
        Assert.Equal("https://mirror.example/", From(("HF_ENDPOINT", "https://mirror.example/")).Endpoint.AbsoluteUri);
        Assert.True(From(("HF_HUB_OFFLINE", "1")).Offline);
        Assert.True(From(("TRANSFORMERS_OFFLINE", "true")).Offline);
        Assert.Equal("hf_a", From(("HF_TOKEN", " hf_a\n")).Token);
        Assert.Throws<HubException>(() => From(("HF_ENDPOINT", "mirror")));
        Assert.DoesNotContain("hf_a", From(("HF_TOKEN", "hf_a")).ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void The_token_file_is_read()
    {
        string folder = Directory.CreateTempSubdirectory("lorasharp-token-").FullName;
        File.WriteAllText(Path.Combine(folder, "token"), "hf_file\n");
        Assert.Equal("hf_file", From(("HF_HOME", folder)).Token);
        Assert.Equal("hf_file", From(("HF_TOKEN_PATH", Path.Combine(folder, "token"))).Token);
        Assert.Equal("hf_env", From(("HF_HOME", folder), ("HF_TOKEN", "hf_env")).Token);
        Assert.Null(From(("HF_HOME", folder), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")).Token);
        Directory.Delete(folder, recursive: true);
    }

    [Theory]
    [InlineData("model-00001-of-00002.safetensors", true)]
    [InlineData("config.json", true)]
    [InlineData("tokenizer.model", true)]
    [InlineData("merges.txt", true)]
    [InlineData("chat_template.jinja", true)]
    [InlineData("adapter_model.safetensors", true)]
    [InlineData("README.md", true)]
    [InlineData("pytorch_model.bin", false)]
    [InlineData("tf_model.h5", false)]
    [InlineData("flax_model.msgpack", false)]
    [InlineData("onnx/config.json", false)]
    [InlineData("consolidated.safetensors", false)]
    [InlineData("checkpoint-5/adapter_model.safetensors", false)]
    [InlineData("image.png", false)]
    [InlineData("model.gguf", false)]
    public void Only_what_a_model_needs_is_wanted(string path, bool wanted) => Assert.Equal(wanted, FileFilter.Default.Matches(path));

    [Fact]
    public void Patterns_are_those_of_a_shell()
    {
        var filter = new FileFilter(["*.gguf", "sub/", "v[12].txt", "q?.bin"], ["*q8*"]);
        Assert.True(filter.Matches("a/b.gguf"));
        Assert.False(filter.Matches("a/b.q8_0.gguf"));
        Assert.True(filter.Matches("sub/x"));
        Assert.True(filter.Matches("v1.txt"));
        Assert.False(filter.Matches("v3.txt"));
        Assert.True(filter.Matches("q4.bin"));
        Assert.False(filter.Matches("config.json"));
    }

    private static HubSettings From(params (string Name, string Value)[] variables) => HubSettings.FromEnvironment(name => variables.FirstOrDefault(variable => variable.Name == name).Value);
}

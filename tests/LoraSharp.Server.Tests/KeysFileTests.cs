using LoraSharp.Formats;
using LoraSharp.Server.Access;

namespace LoraSharp.Server.Tests;

/// <summary>The file of keys, and the allowances made of it.</summary>
public sealed class KeysFileTests
{
    [Fact]
    public void Yaml_and_json_are_read_alike()
    {
        IReadOnlyList<ApiKey> yaml = KeysFile.Parse(
            """
            keys:
              - name: team-a
                key: a-long-secret
                adapters: [support, "team-a-*"]
                base: false
                requests_per_minute: 60
                tokens_per_minute: 20000
                max_concurrent: 4
              - { name: ops, sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, admin: true }
            """, "keys.yaml");
        IReadOnlyList<ApiKey> json = KeysFile.Parse(
            """
            {"keys": [{"name": "team-a", "key": "a-long-secret", "adapters": ["support", "team-a-*"], "base": false, "requests_per_minute": 60, "tokens_per_minute": 20000, "max_concurrent": 4},
                      {"name": "ops", "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", "admin": true}]}
            """, "keys.json");

        Assert.Equal(2, yaml.Count);
        for (int i = 0; i < 2; i++)
        {
            Assert.Equal(yaml[i].Adapters, json[i].Adapters);
            Assert.Equal(yaml[i], json[i] with { Adapters = yaml[i].Adapters });
        }

        Assert.Equal(new ApiKey { Name = "team-a", Sha256 = ApiKey.Hash("a-long-secret"), Adapters = yaml[0].Adapters, Base = false, RequestsPerMinute = 60, TokensPerMinute = 20000, MaxConcurrent = 4 }, yaml[0]);
        Assert.True(yaml[1].IsAdmin);
        using var caller = new Caller(yaml[0]);
        Assert.True(caller.MaySee("support") && caller.MaySee("team-a-sql"));
        Assert.False(caller.MaySee("support2") || caller.MaySee("team-b") || caller.MaySee("team-a"));
    }

    [Fact]
    public void Every_fault_is_listed_with_its_line_and_no_secret()
    {
        MalformedFileException error = Assert.Throws<MalformedFileException>(() => KeysFile.Parse(
            """
            keys:
              - name: a
                key: the-secret-itself
                requests_per_minute: many
                colour: red
              - name: b
              - { name: c, key: short }
              - { name: d, sha256: abc }
              - { name: e, key: same-secret-key }
              - { name: e, key: same-secret-key }
              - { name: f, key: another-secret, adapters: ["a*b"] }
            """, "keys.yaml"));

        Assert.Contains("keys.yaml", error.Message);
        foreach (string part in (string[])["line 2: requests_per_minute: expected a whole number, found 'many'", "line 2: unknown key 'colour'", "line 6: expected exactly one of key, key_env and sha256", "line 7: key: expected at least 8", "line 8: sha256", "the name 'e' is given 2 times", "have the same key", "line 11: adapters: 'a*b'"])
        {
            Assert.Contains(part, error.Message);
        }

        Assert.DoesNotContain("secret-itself", error.Message);
        Assert.DoesNotContain("short", error.Message);
    }

    [Theory]
    [InlineData("")]
    [InlineData("keys: []")]
    [InlineData("- 1")]
    [InlineData("{")]
    public void What_is_no_list_of_keys_is_refused(string text) => Assert.Throws<MalformedFileException>(() => KeysFile.Parse(text, "k"));

    [Fact]
    public void Answers_are_owed_and_paid_before_the_next_prompt()
    {
        using var tokens = new TokenAllowance(100);

        Assert.True(tokens.TryAdmit(60, out _));
        tokens.Owe(90);
        Assert.False(tokens.TryAdmit(1, out TimeSpan wait));

        // 50 are owed and one is wanted at 100 a minute.
        Assert.InRange(wait.TotalSeconds, 25, 31);
        Assert.Equal(0, tokens.Remaining);
    }

    [Fact]
    public void A_prompt_larger_than_a_minutes_worth_is_let_in_by_a_full_bucket()
    {
        using var tokens = new TokenAllowance(100);

        Assert.True(tokens.TryAdmit(250, out _));
        Assert.False(tokens.TryAdmit(1, out TimeSpan wait));
        Assert.InRange(wait.TotalSeconds, 85, 91);
    }
}

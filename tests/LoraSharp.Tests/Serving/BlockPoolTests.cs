using CsCheck;
using LoraSharp.Serving.Cache;

namespace LoraSharp.Tests.Serving;

public sealed class BlockPoolTests
{
    [Fact]
    public void Random_use_never_loses_or_doubles_a_block()
    {
        // 0: start a sequence, 1: grow one, 2: advance one, 3: release one.
        Gen.Select(Gen.Int[1, 12], Gen.Int[1, 4], Gen.Bool, Gen.Select(Gen.Int[0, 3], Gen.Int[0, 1000], Gen.Int[1, 20]).Array[1, 80]).Sample((blocks, size, share, acts) =>
        {
            var pool = new BlockPool(blocks);
            var live = new List<(SequenceBlocks Blocks, int[] Tokens)>();
            foreach ((int act, int pick, int length) in acts)
            {
                if (act == 0)
                {
                    // Few different tokens, so that beginnings are often alike.
                    int[] tokens = [.. Enumerable.Range(0, length).Select(i => (pick >> (i % 3)) & 1)];
                    var started = new SequenceBlocks(pool, size, share);
                    if (started.TryStart(tokens, length, PrefixKey.Start([(byte)(pick % 2)])))
                    {
                        Assert.True(started.Computed < length);
                        started.Advance(length - started.Computed, tokens);
                        live.Add((started, tokens));
                    }
                    else
                    {
                        Assert.Equal(0, started.Table.Length);
                    }
                }
                else if (live.Count > 0 && act == 3)
                {
                    live[pick % live.Count].Blocks.Release();
                    live.RemoveAt(pick % live.Count);
                }
                else if (live.Count > 0)
                {
                    (SequenceBlocks one, int[] tokens) = live[pick % live.Count];
                    int[] longer = [.. tokens, act];
                    if (one.TryGrow(longer.Length))
                    {
                        one.Advance(1, longer);
                        live[pick % live.Count] = (one, longer);
                    }
                }

                int used = live.SelectMany(l => l.Blocks.Table.ToArray()).Distinct().Count();
                int held = live.Sum(l => l.Blocks.Table.Length);
                Assert.True(share ? used <= held : used == held);
                Assert.Equal(blocks, pool.Available + pool.Used);
                Assert.True(pool.Used >= used);
                foreach ((SequenceBlocks one, int[] tokens) in live)
                {
                    Assert.Equal(tokens.Length, one.Computed);
                }
            }

            live.ForEach(l => l.Blocks.Release());
            Assert.Equal(blocks, pool.Available);
        });
    }

    [Fact]
    public void Only_equal_tokens_after_equal_beginnings_by_equal_adapters_are_shared()
    {
        var pool = new BlockPool(16);
        int[] tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        SequenceBlocks first = Start(tokens, "a");
        first.Advance(9, tokens);

        Assert.Equal(8, Start(tokens, "a").Computed);
        Assert.Equal(0, Start(tokens, "b").Computed);
        Assert.Equal(4, Start([1, 2, 3, 4, 5, 6, 7, 0, 9], "a").Computed);
        Assert.Equal(0, Start([0, 2, 3, 4, 5, 6, 7, 8, 9], "a").Computed);

        // One token is always left to compute.
        Assert.Equal(4, Start([1, 2, 3, 4, 5, 6, 7, 8], "a").Computed);

        SequenceBlocks Start(int[] of, string adapter)
        {
            var blocks = new SequenceBlocks(pool, 4, share: true);
            Assert.True(blocks.TryStart(of, of.Length, PrefixKey.Start(System.Text.Encoding.UTF8.GetBytes(adapter))));
            return blocks;
        }
    }

    [Fact]
    public void What_was_used_longest_ago_makes_room_ends_before_beginnings()
    {
        var pool = new BlockPool(4);
        int[] old = [1, 1, 2, 2, 9], young = [3, 3, 4, 4, 9];
        foreach (int[] tokens in new[] { old, young })
        {
            var blocks = new SequenceBlocks(pool, 2, share: true);
            Assert.True(blocks.TryStart(tokens, 4, PrefixKey.Start([])));
            blocks.Advance(4, tokens);
            blocks.Release();
        }

        Assert.Equal(4, pool.Idle);
        int taken = pool.TryTake()!.Value;

        var again = new SequenceBlocks(pool, 2, share: true);
        Assert.True(again.TryStart(young, 4, PrefixKey.Start([])));
        Assert.Equal(4, again.Computed);
        again.Release();
        Assert.True(again.TryStart(old, 2, PrefixKey.Start([])));
        Assert.Equal(2, again.Computed);
        again.Release();
        pool.Release(taken);
        Assert.Equal(4, pool.Available);
    }
}

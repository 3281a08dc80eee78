using LoraSharp.Training;

namespace LoraSharp.Tests.Training;

public sealed class LearningRateScheduleTests
{
    private static readonly long[] Steps = [0, 1, 4, 7, 13, 16, 17, 19, 20];

    // transformers 5.17, get_*_schedule_with_warmup: 20 steps, 4 of warm-up, minimum 0.1, 6 steps of decay.
    public static TheoryData<ScheduleKind, double[]> Expected => new()
    {
        { ScheduleKind.Constant, [0, 0.25, 1, 1, 1, 1, 1, 1, 1] },
        { ScheduleKind.Linear, [0, 0.25, 1, 0.8125, 0.4375, 0.25, 0.1875, 0.0625, 0] },
        { ScheduleKind.Cosine, [0, 0.25, 1, 0.9157348061512727, 0.4024548389919359, 0.14644660940672627, 0.08426519384872733, 0.009607359798384785, 0] },
        { ScheduleKind.CosineWithMinimum, [0, 0.25, 1, 0.9241613255361454, 0.4622093550927423, 0.23180194846605365, 0.1758386744638546, 0.10864662381854631, 0.1] },
        { ScheduleKind.InverseSquareRoot, [0, 0.25, 1, 0.7559289460184544, 0.5547001962252291, 0.5, 0.48507125007266594, 0.4588314677411235, 0.4472135954999579] },
        { ScheduleKind.WarmupStableDecay, [0.1, 0.325, 1, 1, 1, 0.775, 0.55, 0.16028856829700258, 0.1] },
    };

    [Theory]
    [MemberData(nameof(Expected))]
    public void EqualsTransformers(ScheduleKind kind, double[] factors)
    {
        var schedule = new LearningRateSchedule(kind, 20, 4, 0.1, 6);
        Assert.Equal(factors, Steps.Select(schedule.Factor), (a, b) => Math.Abs(a - b) < 1e-12);
    }

    [Fact]
    public void OptionsListEveryFault()
    {
        IReadOnlyList<string> faults = new TrainerOptions { LearningRate = -1, Beta2 = 1, KeepLast = 0 }.Validate();
        Assert.Equal(3, faults.Count);
        Assert.Equal("training.learning_rate: expected 0 or more, found -1", faults[0]);
        Assert.Empty(new TrainerOptions().Validate());
    }

    [Fact]
    public void WarmupRatioIsOfAllSteps() => Assert.Equal(3, new TrainerOptions { WarmupRatio = 0.05 }.CreateSchedule(50).WarmupSteps);
}

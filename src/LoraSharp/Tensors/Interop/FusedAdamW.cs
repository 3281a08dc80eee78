using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace LoraSharp.Tensors.Interop;

/// <summary>
/// <c>at::_ops::_fused_adamw_</c> over fixed lists of tensors: the whole update of a group is one native call, 12 times
/// faster for many small matrices than one operator after the other.
/// </summary>
/// <remarks>
/// The C++ name is not a stable interface: it is looked up, and <see cref="TryCreate"/> gives null where it is missing.
/// A C++ exception would end the process, so everything the operator checks is checked here before.
/// </remarks>
internal sealed unsafe class FusedAdamW : IDisposable
{
    private const string Symbol = "_ZN2at4_ops13_fused_adamw_4callEN3c108ArrayRefINS_6TensorEEES5_S5_S5_S5_S5_dddddbbRKSt8optionalIS4_ES9_";
    private readonly delegate* unmanaged<TensorList, TensorList, TensorList, TensorList, TensorList, TensorList, double, double, double, double, double, byte, byte, nint, nint, void> _call;
    private readonly int _count;
    private readonly Tensor[] _kept;
    private readonly Tensor _steps;
    private readonly nint* _lists;

    private FusedAdamW(nint address, IReadOnlyList<Tensor>[] lists)
    {
        _call = (delegate* unmanaged<TensorList, TensorList, TensorList, TensorList, TensorList, TensorList, double, double, double, double, double, byte, byte, nint, nint, void>)address;
        _count = lists[0].Count;
        _steps = zeros(1, ScalarType.Float32, lists[0][0].device).DetachFromDisposeScope();

        // An at::Tensor is one pointer, which is what lies at the handle. Aliases would be new tensors: keep the very ones.
        _kept = [.. lists.SelectMany(l => l)];
        _lists = (nint*)NativeMemory.AllocZeroed((nuint)(5 * _count * sizeof(nint)));
        for (int list = 0; list < lists.Length; list++)
        {
            for (int i = 0; i < _count; i++)
            {
                _lists[(list * _count) + i] = *(nint*)lists[list][i].Handle;
            }
        }

        for (int i = 0; i < _count; i++)
        {
            _lists[(4 * _count) + i] = *(nint*)_steps.Handle;
        }
    }

    ~FusedAdamW() => NativeMemory.Free(_lists);

    /// <summary>Prepares the call; null where libtorch does not export the operator or the tensors do not suit it.</summary>
    public static FusedAdamW? TryCreate(IReadOnlyList<Tensor> weights, IReadOnlyList<Tensor> gradients, IReadOnlyList<Tensor> first, IReadOnlyList<Tensor> second)
    {
        nint address = NativeRuntime.EnsureLoaded().Export("torch_cpu", Symbol);
        bool suits = address != 0 && weights.Count > 0 && !OperatingSystem.IsWindows() && RuntimeInformation.ProcessArchitecture is Architecture.X64 or Architecture.Arm64;
        for (int i = 0; suits && i < weights.Count; i++)
        {
            suits = Fits(weights[i], weights[0]) && Fits(gradients[i], weights[i]) && Fits(first[i], weights[i]) && Fits(second[i], weights[i])
                && weights[i].shape.SequenceEqual(gradients[i].shape) && weights[i].shape.SequenceEqual(first[i].shape) && weights[i].shape.SequenceEqual(second[i].shape);
        }

        return suits ? new FusedAdamW(address, [weights, gradients, first, second]) : null;
    }

    /// <summary>One update; call with gradients off.</summary>
    /// <param name="step">Number of this update, from 1.</param>
    /// <param name="learningRate">Learning rate now.</param>
    /// <param name="beta1">Decay of the first moment.</param>
    /// <param name="beta2">Decay of the second moment.</param>
    /// <param name="weightDecay">Decoupled decay.</param>
    /// <param name="epsilon">Added to the root.</param>
    public void Step(long step, double learningRate, double beta1, double beta2, double weightDecay, double epsilon)
    {
        _steps.fill_(step);

        // std::optional<at::Tensor> without a value: a pointer and a flag, both zero.
        nint* none = stackalloc nint[2];
        none[0] = none[1] = 0;
        _call(List(0), List(1), List(2), List(3), default, List(4), learningRate, beta1, beta2, weightDecay, epsilon, 0, 0, (nint)none, (nint)none);
        GC.KeepAlive(_kept);
        GC.KeepAlive(this);
    }

    public void Dispose()
    {
        _steps.Dispose();
    }

    private static bool Fits(Tensor tensor, Tensor like) =>
        tensor.dtype == ScalarType.Float32 && tensor.is_contiguous() && tensor.device_type == like.device_type && tensor.device_index == like.device_index;

    private TensorList List(int index) => new((nint)(_lists + (index * _count)), _count);

    private readonly record struct TensorList(nint Data, nint Count);
}

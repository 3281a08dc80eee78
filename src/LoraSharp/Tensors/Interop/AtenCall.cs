using System.Runtime.InteropServices;
using System.Text;
using LoraSharp.Formats;
using static TorchSharp.torch;

namespace LoraSharp.Tensors.Interop;

/// <summary>
/// Calls any ATen operator by name through libtorch's stable C interface, for operators that TorchSharp does not
/// surface. Arguments are added in the order of the operator's schema; autograd works as usual.
/// </summary>
/// <remarks>
/// A schema's <c>Scalar</c> arguments are not supported by that interface. The callee takes over every argument, so a
/// call object is used once.
/// </remarks>
public sealed unsafe partial class AtenCall
{
    private const string Library = "torch_cpu";
    private const int LargestStack = 40;
    private readonly ulong[] _stack = new ulong[LargestStack];
    private readonly string _operator;
    private readonly string _overload;
    private int _count;

    /// <summary>Starts a call.</summary>
    /// <param name="operatorName">With its namespace: <c>aten::mm</c>.</param>
    /// <param name="overload">Name of the overload, e.g. <c>out</c>; empty for the first.</param>
    public AtenCall(string operatorName, string overload = "")
    {
        NativeRuntime.EnsureLoaded();
        _operator = operatorName;
        _overload = overload;
    }

    /// <summary>A tensor.</summary>
    public AtenCall Add(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return Push((ulong)NewHandle(tensor));
    }

    /// <summary>A tensor that may be absent.</summary>
    public AtenCall AddOptional(Tensor? tensor) => tensor is null ? Push(0) : Push(Boxed((ulong)NewHandle(tensor)));

    /// <summary>An integer (or SymInt).</summary>
    public AtenCall Add(long value) => Push((ulong)value);

    /// <summary>An integer that may be absent.</summary>
    public AtenCall AddOptional(long? value) => value is { } v ? Push(Boxed((ulong)v)) : Push(0);

    /// <summary>A number.</summary>
    public AtenCall Add(double value) => Push(BitConverter.DoubleToUInt64Bits(value));

    /// <summary>A number that may be absent.</summary>
    public AtenCall AddOptional(double? value) => value is { } v ? Push(Boxed(BitConverter.DoubleToUInt64Bits(v))) : Push(0);

    /// <summary>A truth value.</summary>
    public AtenCall Add(bool value) => Push(value ? 1UL : 0UL);

    /// <summary>A truth value that may be absent.</summary>
    public AtenCall AddOptional(bool? value) => value is { } v ? Push(Boxed(v ? 1UL : 0UL)) : Push(0);

    /// <summary>A list of integers.</summary>
    public AtenCall Add(IReadOnlyList<long> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        Check(torch_new_list_reserve_size((nuint)values.Count, out nint list));
        foreach (long value in values)
        {
            Check(torch_list_push_back(list, (ulong)value));
        }

        return Push((ulong)list);
    }

    /// <summary>A list of tensors.</summary>
    public AtenCall Add(IReadOnlyList<Tensor> tensors)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        Check(torch_new_list_reserve_size((nuint)tensors.Count, out nint list));
        foreach (Tensor tensor in tensors)
        {
            Check(torch_list_push_back(list, (ulong)NewHandle(tensor)));
        }

        return Push((ulong)list);
    }

    /// <summary>Whether the loaded libtorch has this operator's library entry; used to choose a fallback once, not in a hot path.</summary>
    public static bool IsAvailable => NativeRuntime.EnsureLoaded().Export(Library, "aoti_torch_call_dispatcher") != 0;

    /// <summary>Runs the operator.</summary>
    /// <returns>The raw results; read them with <see cref="Tensor(ulong)"/> or as numbers. Every tensor result must be taken, or it leaks.</returns>
    public ReadOnlySpan<ulong> Invoke()
    {
        fixed (byte* name = Encoding.UTF8.GetBytes(_operator + "\0"), overload = Encoding.UTF8.GetBytes(_overload + "\0"))
        fixed (ulong* stack = _stack)
        {
            int code = aoti_torch_call_dispatcher(name, overload, stack);
            if (code != 0)
            {
                throw new LoraSharpException($"libtorch refused {_operator}{(_overload.Length > 0 ? "." + _overload : "")} (code {code}); its message is on standard error.");
            }
        }

        return _stack;
    }

    /// <summary>Runs an operator whose only result is a tensor.</summary>
    public Tensor InvokeTensor() => Tensor(Invoke()[0]);

    /// <summary>Runs an operator that writes into one of its arguments, and drops the alias it returns.</summary>
    public void InvokeOut() => Tensor(Invoke()[0]).Dispose();

    /// <summary>Takes over a tensor result.</summary>
    public static Tensor Tensor(ulong result) => TorchSharp.torch.Tensor.UnsafeCreateTensor((nint)result);

    private AtenCall Push(ulong value)
    {
        _stack[_count++] = value;
        return this;
    }

    private static ulong Boxed(ulong value)
    {
        // The callee deletes it; on every platform libtorch is built for, that is what malloc'd memory needs.
        ulong* box = (ulong*)NativeMemory.Alloc(sizeof(ulong));
        *box = value;
        return (ulong)box;
    }

    private static nint NewHandle(Tensor tensor)
    {
        Check(aoti_torch_new_tensor_handle(tensor.Handle, out nint handle));
        return handle;
    }

    private static void Check(int code)
    {
        if (code != 0)
        {
            throw new LoraSharpException($"libtorch could not take an argument (code {code}); its message is on standard error.");
        }
    }

    [LibraryImport(Library)]
    private static partial int aoti_torch_call_dispatcher(byte* name, byte* overload, ulong* stack);

    [LibraryImport(Library)]
    private static partial int aoti_torch_new_tensor_handle(nint tensor, out nint handle);

    [LibraryImport(Library)]
    private static partial int torch_new_list_reserve_size(nuint size, out nint list);

    [LibraryImport(Library)]
    private static partial int torch_list_push_back(nint list, ulong value);
}

using System.Runtime.InteropServices;
using LoraSharp.Formats;
using static TorchSharp.torch;

namespace LoraSharp.Tensors.Interop;

/// <summary>
/// A node of the autograd graph with a backward function of our own. TorchSharp's <c>Function</c> allocates every output
/// twice and ends the process when backward throws; this goes to the same native node by its exported functions and
/// does neither.
/// </summary>
/// <remarks>
/// The native side copies what the callback returns only after it has returned, so a result must outlive it. It is kept
/// until the next callback on that thread, which makes one gradient held too long, not one a layer.
/// </remarks>
public sealed unsafe partial class GradientNode
{
    private const string Library = "LibTorchSharp";
    private readonly int _inputs;
    private readonly Func<Tensor, IReadOnlyList<Tensor?>> _backward;
    private readonly GradientNodes _owner;
    private readonly ApplyFunction _apply;
    private readonly DeleteFunction _delete;
    private readonly nint* _results;
    private NativeNode _native;
    private GCHandle _self;

    private GradientNode(int inputs, Func<Tensor, IReadOnlyList<Tensor?>> backward, GradientNodes owner)
    {
        _inputs = inputs;
        _backward = backward;
        _owner = owner;
        _apply = Apply;
        _delete = Delete;
        _results = (nint*)NativeMemory.AllocZeroed((nuint)inputs, (nuint)sizeof(nint));
        _native = THSAutograd_CSharpNode_ctor(Marshal.GetFunctionPointerForDelegate(_apply), Marshal.GetFunctionPointerForDelegate(_delete));
        ThrowIfFailed();

        // The native node holds function pointers only: this keeps their delegates alive until it is deleted.
        _self = GCHandle.Alloc(this);
    }

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    private delegate NativeArray ApplyFunction(nint* gradients, int count);

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    private delegate void DeleteFunction();

    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    private delegate nint AllocateFunction(nuint count);

    /// <summary>
    /// Hangs <paramref name="output"/>, computed without a graph, behind <paramref name="inputs"/>. Without gradients
    /// (mode off, or no input requires one) it is returned as it is.
    /// </summary>
    /// <param name="inputs">Tensors the output depends on.</param>
    /// <param name="output">Owned by the call: use what it returns.</param>
    /// <param name="backward">
    /// From the output's gradient (not to be disposed) to a new tensor for each input, or null. Runs without a graph in
    /// a dispose scope of its own; an exception fails the backward pass and is kept in <see cref="GradientNodes.Fault"/>.
    /// </param>
    /// <param name="owner">Shared by the nodes of one model.</param>
    public static Tensor Attach(Tensor[] inputs, Tensor output, Func<Tensor, IReadOnlyList<Tensor?>> backward, GradientNodes owner)
    {
        ArgumentNullException.ThrowIfNull(inputs);
        ArgumentNullException.ThrowIfNull(output);
        ArgumentNullException.ThrowIfNull(backward);
        ArgumentNullException.ThrowIfNull(owner);
        owner.ThrowIfFaulted();
        if (!is_grad_enabled() || !inputs.Any(i => i.requires_grad))
        {
            return output;
        }

        var node = new GradientNode(inputs.Length, backward, owner);
        nint* handles = stackalloc nint[inputs.Length];
        for (int i = 0; i < inputs.Length; i++)
        {
            handles[i] = inputs[i].Handle;
        }

        var sources = new NativeArray { Items = handles, Count = inputs.Length };
        THSAutograd_CSharpNode_setNextEdges(node._native, sources, 1);
        ThrowIfFailed();
        THSAutograd_CSharpNode_clearInputMetadata(node._native);
        ThrowIfFailed();

        nint target = output.Handle;
        nint* result = stackalloc nint[1];
        nint place = (nint)result;
        AllocateFunction allocate = _ => place;
        THSAutograd_Function_wrapOutputs(sources, default, default, new NativeArray { Items = &target, Count = 1 }, node._native, Marshal.GetFunctionPointerForDelegate(allocate));
        GC.KeepAlive(allocate);
        GC.KeepAlive(inputs);
        ThrowIfFailed();

        // From here on the graph alone keeps the node.
        nint shared = node._native.Shared;
        node._native.Shared = 0;
        THSAutograd_CSharpNode_disposeSharedPtr(new NativeNode { Shared = shared });
        ThrowIfFailed();
        Tensor wrapped = Tensor.UnsafeCreateTensor(*result);
        output.Dispose();
        return wrapped;
    }

    private NativeArray Apply(nint* gradients, int count)
    {
        try
        {
            using var scope = NewDisposeScope();
            for (int i = 0; i < _inputs; i++)
            {
                _results[i] = 0;
            }

            if (count == 1 && gradients[0] != 0)
            {
                Tensor gradient = Tensor.UnsafeCreateTensor(gradients[0]);
                IReadOnlyList<Tensor?> results = _backward(gradient);
                if (results.Count != _inputs)
                {
                    throw new InvalidOperationException($"backward gave {results.Count} gradients for {_inputs} inputs");
                }

                for (int i = 0; i < _inputs; i++)
                {
                    _results[i] = results[i]?.DetachFromDisposeScope().Handle ?? 0;
                }

                _owner.Hold(results);
            }

            return new NativeArray { Items = _results, Count = _inputs };
        }
        catch (Exception error)
        {
            // An exception must not cross native frames. Too few gradients make the engine fail in its own way.
            _owner.Fault = error;
            return new NativeArray { Items = _results, Count = 0 };
        }
    }

    private void Delete()
    {
        NativeNode native = _native;
        _native = default;
        THSAutograd_CSharpNode_disposeWeakPtr(native);
        NativeMemory.Free(_results);
        _self.Free();
    }

    private static void ThrowIfFailed()
    {
        nint message = THSTorch_get_and_reset_last_err();
        if (message != 0)
        {
            throw new LoraSharpException($"libtorch could not add a node to the gradient's graph: {Marshal.PtrToStringUTF8(message)}");
        }
    }

    [LibraryImport(Library)]
    private static partial NativeNode THSAutograd_CSharpNode_ctor(nint apply, nint delete);

    [LibraryImport(Library)]
    private static partial void THSAutograd_CSharpNode_disposeSharedPtr(NativeNode node);

    [LibraryImport(Library)]
    private static partial void THSAutograd_CSharpNode_disposeWeakPtr(NativeNode node);

    [LibraryImport(Library)]
    private static partial void THSAutograd_CSharpNode_setNextEdges(NativeNode node, NativeArray variables, byte isExecutable);

    [LibraryImport(Library)]
    private static partial void THSAutograd_CSharpNode_clearInputMetadata(NativeNode node);

    [LibraryImport(Library)]
    private static partial void THSAutograd_Function_wrapOutputs(NativeArray variables, NativeArray notDifferentiable, NativeArray dirty, NativeArray outputs, NativeNode node, nint allocate);

    [LibraryImport(Library)]
    private static partial nint THSTorch_get_and_reset_last_err();

    [StructLayout(LayoutKind.Sequential)]
    private struct NativeArray
    {
        public nint* Items;
        public long Count;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct NativeNode
    {
        public nint Shared;
        public nint Weak;
    }
}

/// <summary>What the <see cref="GradientNode"/>s of one model share: the last gradients each thread handed out, and a failure.</summary>
public sealed class GradientNodes : IDisposable
{
    private readonly ThreadLocal<IReadOnlyList<Tensor?>?> _held = new(trackAllValues: true);

    /// <summary>What a backward function threw, which the engine reports only as "invalid number of gradients".</summary>
    public Exception? Fault { get; internal set; }

    /// <summary>Frees the gradients held.</summary>
    public void Dispose()
    {
        foreach (IReadOnlyList<Tensor?>? results in _held.Values)
        {
            Free(results);
        }

        _held.Dispose();
    }

    internal void ThrowIfFaulted()
    {
        if (Fault is { } fault)
        {
            Fault = null;
            throw new LoraSharpException($"A backward pass failed: {fault.Message}", fault);
        }
    }

    internal void Hold(IReadOnlyList<Tensor?> results)
    {
        Free(_held.Value);
        _held.Value = results;
    }

    private static void Free(IReadOnlyList<Tensor?>? results)
    {
        foreach (Tensor? tensor in results ?? [])
        {
            tensor?.Dispose();
        }
    }
}

using LoraSharp.Tensors.Cuda;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Fused;

/// <summary>The input [n, d] of each decoder layer, kept from the forward pass for the backward pass.</summary>
internal abstract class LayerInputs : IDisposable
{
    /// <summary>Where a layer's input is written and read.</summary>
    public abstract Tensor this[int layer] { get; }

    /// <summary>Before a layer's input is written in the forward pass.</summary>
    public virtual void BeforeWrite(int layer)
    {
    }

    /// <summary>After it was written.</summary>
    public virtual void AfterWrite(int layer)
    {
    }

    /// <summary>Before a layer's backward pass reads it.</summary>
    public virtual void BeforeRead(int layer)
    {
    }

    /// <inheritdoc/>
    public virtual void Dispose()
    {
    }

    /// <summary>All on the device.</summary>
    /// <param name="inputs">Of each layer; the caller's.</param>
    public sealed class OnDevice(IReadOnlyList<Tensor> inputs) : LayerInputs
    {
        /// <inheritdoc/>
        public override Tensor this[int layer] => inputs[layer];
    }

    /// <summary>
    /// In host memory but for two: each is copied out while the next layer runs, and back while the layer above it is
    /// differentiated. A second stream copies; a CUDA graph captures it all.
    /// </summary>
    public sealed class InHostMemory : LayerInputs
    {
        /// <summary>Inputs on the device at a time.</summary>
        public const int Places = 2;

        private readonly nint _compute;
        private readonly nint _copies;
        private readonly nint[] _host;
        private readonly nint[] _moved;
        private readonly nint _written;
        private readonly nuint _bytes;
        private readonly IReadOnlyList<Tensor> _places;

        /// <summary>Allocates page-locked memory for every layer.</summary>
        /// <param name="layers">How many.</param>
        /// <param name="places">Where they lie on the device in turn; the caller's.</param>
        /// <param name="stream">That computes.</param>
        public InHostMemory(int layers, IReadOnlyList<Tensor> places, nint stream)
        {
            _compute = stream;
            _places = places;
            _bytes = (nuint)(places[0].NumberOfElements * places[0].ElementSize);
            CudaDriver.Check(CudaDriver.cuStreamCreate(out _copies, 1), "make a stream");
            CudaDriver.Check(CudaDriver.cuEventCreate(out _written, 2), "make an event");
            _host = new nint[layers];
            _moved = new nint[layers];
            for (int i = 0; i < layers; i++)
            {
                CudaDriver.Check(CudaDriver.cuMemAllocHost(out _host[i], _bytes), $"allocate {_bytes} bytes of page-locked host memory for a layer's input");
                CudaDriver.Check(CudaDriver.cuEventCreate(out _moved[i], 2), "make an event");
            }
        }

        /// <inheritdoc/>
        public override Tensor this[int layer] => _places[layer % Places];

        private int Layers => _host.Length;

        /// <inheritdoc/>
        public override void BeforeWrite(int layer)
        {
            // The place holds the input of two layers before until it is copied out.
            if (layer >= Places)
            {
                Wait(_compute, _moved[layer - Places]);
            }
        }

        /// <inheritdoc/>
        public override void AfterWrite(int layer)
        {
            // The last two stay where they are until they are read.
            if (layer < Layers - Places)
            {
                Follow();
                CudaDriver.Check(CudaDriver.cuMemcpyDtoHAsync(_host[layer], AtenTensor.DataPointer(this[layer]), _bytes, _copies), "copy a layer's input to host memory");
                CudaDriver.Check(CudaDriver.cuEventRecord(_moved[layer], _copies), "record an event");
            }
        }

        /// <inheritdoc/>
        public override void BeforeRead(int layer)
        {
            if (layer < Layers - Places)
            {
                Wait(_compute, _moved[layer]);
            }

            // The layer above is done with: its place is for the layer below.
            if (layer >= 1 && layer < Layers - 1)
            {
                Follow();
                CudaDriver.Check(CudaDriver.cuMemcpyHtoDAsync(AtenTensor.DataPointer(this[layer - 1]), _host[layer - 1], _bytes, _copies), "copy a layer's input back from host memory");
                CudaDriver.Check(CudaDriver.cuEventRecord(_moved[layer - 1], _copies), "record an event");
            }
        }

        /// <inheritdoc/>
        public override void Dispose()
        {
            Array.ForEach(_moved, e => _ = CudaDriver.cuEventDestroy(e));
            Array.ForEach(_host, h => _ = CudaDriver.cuMemFreeHost(h));
            _ = CudaDriver.cuEventDestroy(_written);
            _ = CudaDriver.cuStreamDestroy(_copies);
        }

        // Copies that come now start after what the compute stream has been given.
        private void Follow()
        {
            CudaDriver.Check(CudaDriver.cuEventRecord(_written, _compute), "record an event");
            Wait(_copies, _written);
        }

        private static void Wait(nint stream, nint awaited) => CudaDriver.Check(CudaDriver.cuStreamWaitEvent(stream, awaited, 0), "order two streams");
    }
}

using LoraSharp.Models;
using LoraSharp.Tensors.Cuda;
using LoraSharp.Tensors.Interop;
using static TorchSharp.torch;

namespace LoraSharp.Training.Fused;

/// <summary>
/// A LoRA training step on a GPU with the backward pass written by hand: bf16, fixed shapes, buffers made once, the base's
/// gradient never computed, adapters folded into the base's matrix products (<see cref="FoldedMatrix"/>), logits never
/// whole, the optimizer in one kernel, all captured in two CUDA graphs. The plain trainer is the reference it is
/// tested against.
/// </summary>
/// <remarks>
/// Kept of a layer for its backward pass: its two residual inputs, q, k, v after RoPE (where their heads are normed: before that), attention's output, gate and up;
/// norms, x·Aᵀ and the activation are computed again. With checkpointing only the layer's input is kept, in host memory if
/// wanted.
/// Runs on one thread, on a stream of its own.
/// </remarks>
internal sealed class FusedLoraStep : IDisposable
{
    private const int Partials = 512;
    private readonly FusedModel _model;
    private readonly LlamaShape _shape;
    private readonly FusedOptions _options;
    private readonly Device _device;
    private readonly CudaModule _kernels;
    private readonly CudaStreamScope _stream;
    private readonly LayerMatrices[] _matrices;
    private readonly LayerState[] _states;
    private readonly LayerInputs _inputs;
    private readonly List<Tensor> _owned = [];
    private readonly Tensor? _sharedWeights;
    private readonly long _tokens;
    private readonly int[] _rowBorders;
    // One for rows that are a sequence each, one for packed rows.
    private readonly CudaGraph?[] _microGraphs = new CudaGraph?[2];
    private CudaGraph? _optimizerGraph;
    private int _step;
    private bool _packed;
    private bool _warmingUp;

    // Inputs of a micro-batch, at fixed addresses.
    private readonly Tensor _ids;
    private readonly Tensor _labels;
    private readonly Tensor _positions;
    private readonly Tensor _borders;
    private readonly Tensor _inverseCount;
    private readonly Tensor _first;
    private readonly Tensor _hyper;

    // Flat trainable state. Gradients in bf16 are of one layer at a time; moments are made when Optimize is called first.
    private readonly Tensor _parameters;
    private readonly Tensor _gradients16;
    private readonly Tensor _gradients;
    private Tensor? _moment1;
    private Tensor? _moment2;
    private readonly Tensor _table;
    private readonly LayerFactors[] _layerFactors;
    private readonly long _factors;

    // Buffers all layers share. What is never there at the same time shares memory: the normed inputs of a layer's two halves
    // and of the head; the activation, its gradient and (between the passes) the final hidden state; a half's output, the
    // gradient of its input and of attention's output.
    private readonly Tensor? _turned;
    private readonly Tensor _x;
    private readonly Tensor _activation;
    private readonly Tensor _attention;
    private readonly Tensor _delta;
    private readonly Tensor _dx;
    private readonly Tensor _dAttention;
    private readonly Tensor _residualGradient;
    private readonly Tensor _final;
    private readonly Tensor _finalScale;
    private readonly Tensor _logits;
    private readonly Tensor _losses;
    private readonly Tensor _loss;
    private readonly Tensor _partial;
    private readonly Tensor _clip;

    /// <summary>Builds buffers and copies the base weights in. The adapter's A and B become views of this step's flat parameters.</summary>
    public FusedLoraStep(FusedModel model, FusedOptions options, Device device)
    {
        _model = model;
        _shape = model.Shape;
        _options = options;
        _device = device;
        _tokens = (long)options.Rows * options.Length;
        _rowBorders = [.. Enumerable.Range(0, options.Rows + 1).Select(i => i * options.Length)];
        using IDisposable noGradients = no_grad();
        using var scope = NewDisposeScope();
        // What the caller made on the default stream must be there before another stream reads it.
        TorchSharp.torch.cuda.synchronize();
        _kernels = CudaModule.Compile("fused_step.cu", CudaModule.Source("fused_step"), device.index < 0 ? 0 : device.index);
        if (options.SharedWeights)
        {
            _sharedWeights = Own(zeros([LargestBuffer()], ScalarType.BFloat16, device));
        }

        long offset = 0;
        _matrices = [.. model.Layers.Select(layer => new LayerMatrices(layer, _shape, ref offset, device, _sharedWeights))];
        _layerFactors = [.. LayerFactors.Of(_matrices, offset)];
        _parameters = Own(zeros([offset], ScalarType.Float32, device));
        _gradients16 = Own(zeros([_layerFactors.Max(l => l.Values)], ScalarType.BFloat16, device));
        _gradients = Own(zeros([offset], ScalarType.Float32, device));
        long[][] rows = [.. _matrices.SelectMany(m => m.All).SelectMany(m => m.FactorTable(options.LoraplusRatio))];
        _factors = rows.Length;
        if (options.SharedWeights)
        {
            // Written where they are used: the buffer belongs to another matrix by then.
            _table = Own(tensor(rows.SelectMany(r => (long[])[r[0], r[1], r[2], 0, .. r[4..]]).ToArray(), [_factors, 8L]).to(device));
        }
        else
        {
            _table = Own(tensor(rows.SelectMany(r => r).ToArray(), [_factors, 8L]).to(device));
        }

        SharedTables = options.SharedWeights ? [.. _matrices.Select(m => m.All.Select(a => Table(a)).ToArray())] : [];

        long n = _tokens;
        long f = _shape.Inner;
        long d = _shape.Size;
        long heads = _shape.Heads * _shape.HeadSize;
        _ids = Own(zeros([n], ScalarType.Int64, device));
        _labels = Own(zeros([n], ScalarType.Int64, device));
        _positions = Own(zeros([n], ScalarType.Int32, device));
        _borders = Own(zeros([options.MostSequences + 1], ScalarType.Int32, device));
        _inverseCount = Own(ones([1], ScalarType.Float32, device));
        _first = Own(ones([1], ScalarType.Float32, device));
        _hyper = Own(zeros([8], ScalarType.Float32, device));
        _turned = model.Layers[0].QueryNorm is null ? null : Buffer(n, (_shape.Heads + _shape.KeyHeads) * _shape.HeadSize);
        _states = [.. Enumerable.Range(0, options.Checkpointing ? 1 : model.Layers.Count).Select(_ => new LayerState(this))];
        WarmUpAttention();
        _x = Buffer(n, d + Math.Max(Widest(m => m.Qkv.Rank), Widest(m => m.GateUp.Rank)));
        _activation = Buffer(n, Math.Max(f, d) + Widest(m => m.Down.Rank));
        _attention = Buffer(n, heads + Widest(m => m.Output.Rank));
        _final = Own(_activation.view(-1).narrow(0, 0, n * d).view(n, d));
        Tensor between = Buffer(n, Math.Max(d, heads)).view(-1);
        _delta = Own(between.narrow(0, 0, n * d).view(n, d));
        _dx = _delta;
        _dAttention = Own(between.narrow(0, 0, n * heads).view(n, heads));
        _residualGradient = Buffer(n, d + Math.Max(Widest(m => m.Down.Rank), Widest(m => m.Output.Rank)));
        _finalScale = Own(zeros([n], ScalarType.Float32, device));
        _logits = Buffer(Math.Min(options.LossChunk, n), _shape.Vocabulary);
        _losses = Own(zeros([n], ScalarType.Float32, device));
        _loss = Own(zeros([1], ScalarType.Float32, device));
        _partial = Own(zeros([Partials], ScalarType.Float32, device));
        _clip = Own(zeros([2], ScalarType.Float32, device));
        bool moving = options is { Checkpointing: true, InputsInHostMemory: true };
        Tensor[] inputs = [.. Enumerable.Range(0, moving ? LayerInputs.InHostMemory.Places : model.Layers.Count).Select(_ => Buffer(n, d))];
        TakeFactors();
        if (!options.SharedWeights)
        {
            WriteBases(placed: true);
        }

        // From here on all runs on a stream of its own, which a graph needs. Not before: libtorch keeps freed memory by stream, and what
        // loading the model left is the default one's.
        TorchSharp.torch.cuda.synchronize();
        _stream = new CudaStreamScope(device.index < 0 ? 0 : device.index);
        _inputs = moving ? new LayerInputs.InHostMemory(model.Layers.Count, inputs, _stream.Stream) : new LayerInputs.OnDevice(inputs);
    }

    /// <summary>Trained numbers.</summary>
    public long TrainableParameters => _parameters.NumberOfElements;

    private IReadOnlyList<Tensor[]> SharedTables { get; }

    /// <summary>Forward and backward of one micro-batch; gradients add up until <see cref="Optimize"/>.</summary>
    /// <param name="ids">Token ids [b·s].</param>
    /// <param name="labels">For each position the token that follows it, or -100 [b·s].</param>
    /// <param name="positions">Position in its sequence [b·s].</param>
    /// <param name="borders">Where sequences start, and the end; null: each row is one sequence.</param>
    /// <param name="inverseCount">1 / (supervised tokens of the whole optimizer step).</param>
    /// <param name="first">Whether it is the step's first micro-batch.</param>
    public void MicroStep(long[] ids, long[] labels, int[] positions, int[]? borders, double inverseCount, bool first)
    {
        using IDisposable noGradients = no_grad();
        borders ??= _rowBorders;
        _packed = !borders.AsSpan().SequenceEqual(_rowBorders);
        using (var scope = NewDisposeScope())
        {
            _ids.copy_(tensor(ids));
            _labels.copy_(tensor(labels));
            _positions.copy_(tensor(positions));
            _inverseCount.fill_(inverseCount);
            _first.fill_(first ? 1.0 : 0.0);
            int[] padded = [.. borders, .. Enumerable.Repeat((int)_tokens, _options.MostSequences + 1 - borders.Length)];
            _borders.copy_(tensor(padded));
        }

        if (!_options.Graphs || !CudaGraph.IsAvailable)
        {
            ForwardBackward();
            return;
        }

        ref CudaGraph? graph = ref _microGraphs[_packed ? 1 : 0];
        if (graph is null)
        {
            _warmingUp = true;
            WarmUp();
            _warmingUp = false;
            _stream.Synchronize();
            graph = CudaGraph.Capture(ForwardBackward, _stream);
        }

        graph.Replay();
    }

    /// <summary>Clips, updates, and writes the factors into the base matrices.</summary>
    /// <param name="learningRate">Of this step.</param>
    public void Optimize(double learningRate)
    {
        using IDisposable noGradients = no_grad();
        _moment1 ??= Own(zeros_like(_parameters));
        _moment2 ??= Own(zeros_like(_parameters));
        _step++;
        using (var scope = NewDisposeScope())
        {
            float[] hyper =
            [
                (float)learningRate, (float)_options.Beta1, (float)_options.Beta2, (float)_options.Epsilon, (float)_options.WeightDecay,
                (float)(1 - Math.Pow(_options.Beta1, _step)), (float)Math.Sqrt(1 - Math.Pow(_options.Beta2, _step)), 0,
            ];
            _hyper.copy_(tensor(hyper));
        }

        if (_optimizerGraph is not null)
        {
            _optimizerGraph.Replay();
            return;
        }

        Update();
        if (_options.Graphs && CudaGraph.IsAvailable)
        {
            _stream.Synchronize();
            _optimizerGraph = CudaGraph.Capture(Update, _stream);
        }
    }

    /// <summary>Loss of the last optimizer step and the norm of its gradient before clipping; waits for the device.</summary>
    public (double Loss, double GradientNorm) Read()
    {
        using var scope = NewDisposeScope();
        return (_loss.cpu().item<float>(), _clip.cpu().data<float>()[0]);
    }

    /// <summary>Gradients of A and B by layer name, float32 on the CPU, for tests.</summary>
    public IEnumerable<(string Name, Tensor A, Tensor B)> ReadGradients() => Factors(_gradients);

    /// <summary>Waits for the device.</summary>
    public void Synchronize() => _stream.Synchronize();

    /// <summary>Frees everything.</summary>
    public void Dispose()
    {
        _stream.Synchronize();
        Array.ForEach(_microGraphs, g => g?.Dispose());
        _optimizerGraph?.Dispose();
        foreach (LayerState state in _states)
        {
            state.Attention.Dispose();
        }

        foreach (LayerMatrices matrices in _matrices)
        {
            matrices.Dispose();
        }

        _inputs.Dispose();
        _owned.ForEach(t => t.Dispose());
        _stream.Dispose();
        _kernels.Dispose();
    }

    // Attention plans and loads what it needs, in both ways. Its large transients come before the buffers, which take over
    // their memory; the graph has a pool of its own.
    private void WarmUpAttention()
    {
        using var scope = NewDisposeScope();
        using var kept = new AttentionState();
        LayerState state = _states[0];
        Tensor gradient = zeros([_tokens, _shape.Heads, _shape.HeadSize], ScalarType.BFloat16, _device);
        FusedAttention.Rows(state.Part(0), state.Part(1), state.Part(2), _options.Rows, _shape.AttentionScale, kept);
        FusedAttention.RowsBackward(gradient, _options.Rows, kept);
        if (_options.MostSequences > _options.Rows)
        {
            kept.Dispose();
            Tensor borders = arange(0, _tokens + 1, _options.Length, ScalarType.Int32, _device);
            FusedAttention.Packed(state.Part(0), state.Part(1), state.Part(2), borders, _options.Length, _shape.AttentionScale, kept);
            FusedAttention.PackedBackward(gradient, state.Part(0), state.Part(1), state.Part(2), borders, _options.Length, _shape.AttentionScale, kept);
        }
    }

    // What libraries set up on first use must not be captured: the last layer and the loss go once eagerly, on what the
    // embedding gives, without attention. Not the whole step: its memory would stay with the allocator. What micro-batches
    // before have added up stays as it is.
    private void WarmUp()
    {
        using var scope = NewDisposeScope();
        if (_options.SharedWeights)
        {
            // Each matrix has numbers of its own that its kernel needs.
            WriteBases(placed: false);
        }

        Tensor loss = _loss.clone();
        int last = _matrices.Length - 1;
        new AtenCall("aten::index_select", "out").Add(_model.Embedding).Add(0L).Add(_ids).Add(_inputs[last]).InvokeOut();
        ForwardLayer(last, State(last), null);
        Norm(State(last), _final);
        LossAndGradient();
        BackwardLayer(last, State(last));
        _loss.copy_(loss);
    }

    private void ForwardBackward()
    {
        using var scope = NewDisposeScope();
        new AtenCall("aten::index_select", "out").Add(_model.Embedding).Add(0L).Add(_ids).Add(_inputs[0]).InvokeOut();
        for (int l = 0; l < _matrices.Length; l++)
        {
            ForwardLayer(l, State(l), l == 0 ? null : _delta);
        }

        Norm(State(_matrices.Length - 1), _final);
        LossAndGradient();
        for (int l = _matrices.Length - 1; l >= 0; l--)
        {
            LayerState state = State(l);
            _inputs.BeforeRead(l);
            if (_options.Checkpointing && l < _matrices.Length - 1)
            {
                ForwardLayer(l, state, delta: null, again: true);
            }

            BackwardLayer(l, state);
        }
    }

    private LayerState State(int layer) => _states[_options.Checkpointing ? 0 : layer];

    // The layer's input is the former layer's middle plus its last delta; it is written to _inputs[l] on the first pass.
    // 'again': for the backward pass, which does without the layer's output.
    private void ForwardLayer(int l, LayerState state, Tensor? delta, bool again = false)
    {
        using var scope = NewDisposeScope();
        LayerMatrices m = _matrices[l];
        FusedLayer layer = _model.Layers[l];
        Tensor source = delta is null ? _inputs[l] : State(l - 1).Middle;
        if (!again)
        {
            _inputs.BeforeWrite(l);
        }

        AddNorm(source, delta, layer.AttentionNorm, _inputs[l], _x, state.Scale1);
        if (!again)
        {
            _inputs.AfterWrite(l);
        }

        Use(m, 0);
        m.Qkv.Forward(Trim(_x, m.Qkv.Inputs + m.Qkv.Rank), state.Qkv.narrow(1, 0, m.Qkv.Outputs));
        Turn(layer, state, layer.QkvBias);
        Attend(state);
        Use(m, 1);
        Tensor attention = Trim(_attention, m.Output.Inputs + m.Output.Rank);
        Launch("place_rows", (_tokens, 1, 1), 256, state.Attention.Output, attention, (int)m.Output.Inputs, attention.size(1));
        m.Output.Forward(attention, _delta);
        if (m.Output.TrueRank > 0)
        {
            state.AttentionProjected.narrow(1, 0, m.Output.TrueRank).copy_(attention.narrow(1, m.Output.Inputs, m.Output.TrueRank));
        }

        AddNorm(_inputs[l], _delta, layer.MlpNorm, state.Middle, _x, state.Scale2);
        Use(m, 2);
        m.GateUp.Forward(Trim(_x, m.GateUp.Inputs + m.GateUp.Rank), state.GateUp.narrow(1, 0, m.GateUp.Outputs));
        if (again)
        {
            return;
        }

        Launch("swiglu", Grid(_shape.Inner), 256, state.GateUp, _activation, (int)_shape.Inner, state.GateUp.size(1), _activation.size(1));
        Use(m, 3);
        m.Down.Forward(Trim(_activation, m.Down.Inputs + m.Down.Rank), _delta);
    }

    private void Attend(LayerState state)
    {
        using var scope = NewDisposeScope();
        state.Attention.Dispose();
        if (_warmingUp)
        {
            state.Attention.KeepOutput(_dAttention.alias());
        }
        else if (_packed)
        {
            FusedAttention.Packed(state.Part(0), state.Part(1), state.Part(2), _borders, _options.Length, _shape.AttentionScale, state.Attention);
        }
        else
        {
            FusedAttention.Rows(state.Part(0), state.Part(1), state.Part(2), _options.Rows, _shape.AttentionScale, state.Attention);
        }
    }

    private void BackwardLayer(int l, LayerState state)
    {
        using var scope = NewDisposeScope();
        LayerMatrices m = _matrices[l];
        FusedLayer layer = _model.Layers[l];
        int d = (int)_shape.Size;

        // Down projection: its output's gradient is the residual's.
        Tensor dy = Trim(_residualGradient, d + m.Down.Rank);
        Use(m, 3);
        m.Down.ProjectGradient(dy);
        m.Down.Backward(dy, _activation.narrow(1, 0, _shape.Inner));
        Launch("swiglu_backward", Grid(_shape.Inner), 256, state.GateUp, _activation, (int)_shape.Inner, state.GateUp.size(1), _activation.size(1));
        Tensor activation = Trim(_activation, m.Down.Inputs + m.Down.Rank);
        m.Down.Project(activation);
        m.Down.Gradients(activation, dy, _gradients16, _layerFactors[l].Start);

        // Gate and up.
        Use(m, 2);
        Tensor dGateUp = Trim(state.GateUp, m.GateUp.Outputs + m.GateUp.Rank);
        m.GateUp.ProjectGradient(dGateUp);
        m.GateUp.Backward(dGateUp, _dx);
        if (m.GateUp.TrueRank > 0)
        {
            Launch("rmsnorm_again", (_tokens, 1, 1), 256, state.Middle, layer.MlpNorm, state.Scale2, _x, d, _x.size(1));
            Tensor x = Trim(_x, m.GateUp.Inputs + m.GateUp.Rank);
            m.GateUp.Project(x);
            m.GateUp.Gradients(x, dGateUp, _gradients16, _layerFactors[l].Start);
        }

        Launch("rmsnorm_backward", (_tokens, 1, 1), 256, _dx, state.Middle, layer.MlpNorm, state.Scale2, _residualGradient, d, _residualGradient.size(1), 1);

        // Attention's output projection.
        dy = Trim(_residualGradient, d + m.Output.Rank);
        Use(m, 1);
        m.Output.ProjectGradient(dy);
        m.Output.Backward(dy, _dAttention);
        m.Output.Gradients(state.Attention.Output, state.AttentionProjected, dy, _gradients16, _layerFactors[l].Start);
        AttendBackward(layer, state);

        // q, k and v. Below the first layer nothing trains.
        Use(m, 0);
        Tensor dqkv = Trim(state.Qkv, m.Qkv.Outputs + m.Qkv.Rank);
        m.Qkv.ProjectGradient(dqkv);
        if (m.Qkv.TrueRank > 0)
        {
            Tensor x = Trim(_x, m.Qkv.Inputs + m.Qkv.Rank);
            Launch("rmsnorm_again", (_tokens, 1, 1), 256, _inputs[l], layer.AttentionNorm, state.Scale1, _x, d, _x.size(1));
            m.Qkv.Project(x);
            m.Qkv.Gradients(x, dqkv, _gradients16, _layerFactors[l].Start);
        }

        if (l > 0)
        {
            m.Qkv.Backward(dqkv, _dx);
            Launch("rmsnorm_backward", (_tokens, 1, 1), 256, _dx, _inputs[l], layer.AttentionNorm, state.Scale1, _residualGradient, d, _residualGradient.size(1), 1);
        }

        LayerFactors factors = _layerFactors[l];
        if (_warmingUp)
        {
            // Nothing was learnt.
            _gradients16.zero_();
        }

        if (factors.Count > 0)
        {
            Launch("accumulate", (factors.Count, 8, 1), 256, _gradients16, factors.Start, _gradients, _table.narrow(0, factors.First, factors.Count), _first);
        }
    }

    // Bias and RoPE of q, k and v in place; with norms of heads q and k go to a buffer that the layers share, and what they were before stays.
    private void Turn(FusedLayer layer, LayerState state, Tensor? bias)
    {
        (int h, int kv, int e) = ((int)_shape.Heads, (int)_shape.KeyHeads, (int)_shape.HeadSize);
        KernelArgument added = bias is null ? (KernelArgument)(nint)0 : bias;
        if (layer.QueryNorm is { } queryNorm && layer.KeyNorm is { } keyNorm)
        {
            Launch("norm_rope", (_tokens, 1, 1), 256, state.Qkv, added, queryNorm, keyNorm, _turned!, _positions, _model.Cosines, _model.Sines, h, kv, e, state.Qkv.size(1), (float)_shape.Epsilon);
            return;
        }

        Launch("rope", (_tokens, 1, 1), 256, state.Qkv, added, _positions, _model.Cosines, _model.Sines, h + kv, h + (2 * kv), e, state.Qkv.size(1));
    }

    // The gradients of q, k and v take their place.
    private void AttendBackward(FusedLayer layer, LayerState state)
    {
        using var scope = NewDisposeScope();
        long h = _shape.Heads;
        long e = _shape.HeadSize;
        Tensor gradient = _dAttention.view(_tokens, h, e);
        if (_turned is not null)
        {
            // Of this layer again; its bias has been added for good.
            Turn(layer, state, null);
        }

        (Tensor dq, Tensor dk, Tensor dv) = _warmingUp ? (state.Part(0), state.Part(1), state.Part(2))
            : _packed
            ? FusedAttention.PackedBackward(gradient, state.Part(0), state.Part(1), state.Part(2), _borders, _options.Length, _shape.AttentionScale, state.Attention)
            : FusedAttention.RowsBackward(gradient, _options.Rows, state.Attention);
        state.Attention.Dispose();
        long[] q = Strides(dq, h);
        long[] k = Strides(dk, _shape.KeyHeads);
        long[] v = Strides(dv, _shape.KeyHeads);
        if (layer.QueryNorm is { } queryNorm && layer.KeyNorm is { } keyNorm)
        {
            Launch("norm_rope_backward", (_tokens, 1, 1), 256, dq, dk, dv, state.Qkv, queryNorm, keyNorm, _positions, _model.Cosines, _model.Sines, _options.Length, (int)h, (int)_shape.KeyHeads, (int)e, state.Qkv.size(1), (float)_shape.Epsilon, q[0], q[1], q[2], k[0], k[1], k[2], v[0], v[1], v[2]);
            return;
        }

        Launch("rope_backward", (_tokens, 1, 1), 256, dq, dk, dv, state.Qkv, _positions, _model.Cosines, _model.Sines, _options.Length, (int)h, (int)_shape.KeyHeads, (int)e, state.Qkv.size(1), q[0], q[1], q[2], k[0], k[1], k[2], v[0], v[1], v[2]);

        long[] Strides(Tensor t, long heads) => t.view(_options.Rows, _options.Length, heads, e).transpose(1, 2).stride();
    }

    private void Norm(LayerState last, Tensor final)
    {
        AddNorm(last.Middle, _delta, _model.FinalNorm, final, _x, _finalScale);
    }

    private void LossAndGradient()
    {
        using var scope = NewDisposeScope();
        Tensor headT = _model.Head.t();
        long chunk = _logits.size(0);
        for (long start = 0; start < _tokens; start += chunk)
        {
            long count = Math.Min(chunk, _tokens - start);
            Tensor logits = _logits.narrow(0, 0, count);
            FoldedMatrix.Multiply(_x.narrow(0, start, count).narrow(1, 0, _shape.Size), headT, logits);
            Launch("cross_entropy", (count, 1, 1), 512, logits, _labels.narrow(0, start, count), _losses.narrow(0, start, count), _inverseCount, (int)_shape.Vocabulary);
            FoldedMatrix.Multiply(logits, _model.Head, _dx.narrow(0, start, count));
        }

        Launch("sum_loss", (1, 1, 1), 1024, _losses, (int)_tokens, _inverseCount, _first, _loss);
        Launch("rmsnorm_backward", (_tokens, 1, 1), 256, _dx, _final, _model.FinalNorm, _finalScale, _residualGradient, (int)_shape.Size, _residualGradient.size(1), 0);
    }

    private void Update()
    {
        Launch("square_sums", (Partials, 1, 1), 256, _gradients, _gradients.NumberOfElements, _partial);
        Launch("clip_factor", (1, 1, 1), 512, _partial, Partials, (float)_options.MaxGradNorm, _clip);
        Launch("adamw", (_factors, 8, 1), 256, _parameters, _gradients, _moment1!, _moment2!, _table, _hyper, _clip);
    }

    private void AddNorm(Tensor x, Tensor? delta, Tensor weight, Tensor sum, Tensor normed, Tensor scale) =>
        Launch("add_rmsnorm", (_tokens, 1, 1), 256, x, delta is null ? (KernelArgument)(nint)0 : delta, weight, sum, normed, scale, (int)_shape.Size, normed.size(1), (float)_shape.Epsilon);

    /// <summary>Where bases take turns in one buffer: writes this one and its factors.</summary>
    private void Use(LayerMatrices matrices, int which)
    {
        if (!_options.SharedWeights)
        {
            return;
        }

        using var scope = NewDisposeScope();
        matrices.WriteBase(which, placed: false);
        matrices.All[which].ClearSpare();
        Tensor table = SharedTables[Array.IndexOf(_matrices, matrices)][which];
        if (table.size(0) > 0)
        {
            Launch("refresh_factors", (table.size(0), 16, 1), 256, _parameters, table);
        }
    }

    private void WriteBases(bool placed)
    {
        foreach (LayerMatrices matrices in _matrices)
        {
            for (int i = 0; i < 4; i++)
            {
                matrices.WriteBase(i, placed);
            }
        }
    }

    /// <summary>Losses of the last micro-batch [b·s], float32, at the positions that predict; 0 where nothing is predicted.</summary>
    public Tensor Losses => _losses;

    /// <summary>Gradients of A and B by layer name, as views on the device that hold until the next micro-batch.</summary>
    public IEnumerable<(string Name, Tensor A, Tensor B)> DeviceGradients()
    {
        _stream.Synchronize();
        return Places(_gradients).Select(p => (p.Linear.Name, p.A, p.B));
    }

    /// <summary>Writes A and B beside the bases they belong to: at the start, and after an optimizer outside has changed them.</summary>
    public void RefreshFactors()
    {
        if (!_options.SharedWeights && _factors > 0)
        {
            Launch("refresh_factors", (_factors, 8, 1), 256, _parameters, _table);
        }
    }

    // The model's A and B have no memory of their own from here on.
    private void TakeFactors()
    {
        using var scope = NewDisposeScope();
        foreach ((FusedLinear linear, Tensor a, Tensor b) in Places(_parameters))
        {
            a.copy_(linear.A!);
            b.copy_(linear.B!);
            linear.A!.set_(a);
            linear.B!.set_(b);
        }

        RefreshFactors();
    }

    private IEnumerable<(string Name, Tensor A, Tensor B)> Factors(Tensor flat)
    {
        _stream.Synchronize();
        foreach ((FusedLinear linear, Tensor a, Tensor b) in Places(flat))
        {
            yield return (linear.Name, a.cpu(), b.cpu());
        }
    }

    private IEnumerable<(FusedLinear Linear, Tensor A, Tensor B)> Places(Tensor flat)
    {
        foreach (LayerMatrices matrices in _matrices)
        {
            foreach ((FoldedMatrix matrix, FusedLinear[] linears) in matrices.WithLinears)
            {
                for (int i = 0; i < linears.Length; i++)
                {
                    FoldedPart part = matrix.Parts[i];
                    if (part.Rank > 0)
                    {
                        yield return (linears[i], flat.narrow(0, part.OffsetA, part.Rank * matrix.Inputs).view(part.Rank, matrix.Inputs), flat.narrow(0, part.OffsetB, part.Rows * part.Rank).view(part.Rows, part.Rank));
                    }
                }
            }
        }
    }

    private Tensor Table(FoldedMatrix matrix)
    {
        long[][] rows = [.. matrix.FactorTable(1)];
        return Own(rows.Length == 0 ? zeros([0, 8], ScalarType.Int64) : tensor(rows.SelectMany(r => r).ToArray(), [(long)rows.Length, 8L]).to(_device));
    }

    private long LargestBuffer()
    {
        long offset = 0;
        long largest = 0;
        foreach (FusedLayer layer in _model.Layers)
        {
            // On the meta device the layout costs nothing.
            using var matrices = new LayerMatrices(layer, _shape, ref offset, new Device(TorchSharp.DeviceType.META), null);
            largest = Math.Max(largest, matrices.All.Max(m => m.BufferElements));
        }

        return largest;
    }

    private void Launch(string kernel, (long X, long Y, long Z) grid, int threads, params ReadOnlySpan<KernelArgument> arguments) =>
        _kernels.Launch(kernel, grid, threads, 0, arguments);

    private (long X, long Y, long Z) Grid(long width) => (((width / 8) + 255) / 256, _tokens, 1);

    private static Tensor Trim(Tensor buffer, long columns) => buffer.size(1) == columns ? buffer.alias() : buffer.narrow(1, 0, columns);

    private long Widest(Func<LayerMatrices, long> rank) => _matrices.Max(rank);

    private Tensor Buffer(long rows, long columns) => Own(zeros([rows, columns], ScalarType.BFloat16, _device));

    private Tensor Own(Tensor made)
    {
        Tensor owned = made.DetachFromDisposeScope();
        _owned.Add(owned);
        return owned;
    }

    /// <summary>The four folded matrices of a layer.</summary>
    private sealed class LayerMatrices : IDisposable
    {
        private readonly FusedLinear[][] _linears;

        public LayerMatrices(FusedLayer layer, LlamaShape shape, ref long offset, Device device, Tensor? shared)
        {
            _linears = [[layer.Query, layer.Key, layer.Value], [layer.Output], [layer.Gate, layer.Up], [layer.Down]];
            long[] inputs = [shape.Size, shape.Heads * shape.HeadSize, shape.Size, shape.Inner];
            var all = new FoldedMatrix[4];
            for (int i = 0; i < 4; i++)
            {
                all[i] = new FoldedMatrix([.. _linears[i].Select(l => new FoldedPart(l.Name, l.Rows, l.A?.size(0) ?? 0, l.Scaling))], inputs[i], ref offset, device, shared);
            }

            All = all;
        }

        public IReadOnlyList<FoldedMatrix> All { get; }

        public FoldedMatrix Qkv => All[0];

        public FoldedMatrix Output => All[1];

        public FoldedMatrix GateUp => All[2];

        public FoldedMatrix Down => All[3];

        public IEnumerable<(FoldedMatrix Matrix, FusedLinear[] Linears)> WithLinears => All.Zip(_linears);

        public void WriteBase(int which, bool placed)
        {
            using var scope = NewDisposeScope();
            Tensor all = All[which].BaseView();
            long row = 0;
            foreach (FusedLinear linear in _linears[which])
            {
                Tensor place = all.narrow(0, row, linear.Rows);
                linear.WriteBase(place);
                if (placed)
                {
                    linear.Placed?.Invoke(place);
                }

                row += linear.Rows;
            }
        }

        public void Dispose()
        {
            foreach (FoldedMatrix matrix in All)
            {
                matrix.Dispose();
            }
        }
    }

    /// <summary>Which rows of the table of factors are a layer's, and which of the flat parameters.</summary>
    private readonly record struct LayerFactors(long First, long Count, long Start, long Values)
    {
        public static IEnumerable<LayerFactors> Of(IReadOnlyList<LayerMatrices> layers, long values)
        {
            long first = 0;
            for (int l = 0; l < layers.Count; l++)
            {
                long count = layers[l].All.Sum(m => m.Parts.Count(p => p.Rank > 0)) * 2;
                long start = layers[l].Qkv.OffsetA;
                long end = l + 1 < layers.Count ? layers[l + 1].Qkv.OffsetA : values;
                yield return new LayerFactors(first, count, start, end - start);
                first += count;
            }
        }
    }

    /// <summary>What a layer keeps from its forward for its backward pass.</summary>
    private sealed class LayerState
    {
        private readonly FusedLoraStep _owner;

        public LayerState(FusedLoraStep owner)
        {
            _owner = owner;
            long n = owner._tokens;
            LayerMatrices m = owner._matrices[0];
            Middle = owner.Buffer(n, owner._shape.Size);
            Qkv = owner.Buffer(n, m.Qkv.Outputs + owner.Widest(l => l.Qkv.Rank));
            AttentionProjected = owner.Buffer(n, Math.Max(1, owner.Widest(l => l.Output.Rank)));
            GateUp = owner.Buffer(n, m.GateUp.Outputs + owner.Widest(l => l.GateUp.Rank));
            Scale1 = owner.Own(zeros([n], ScalarType.Float32, owner._device));
            Scale2 = owner.Own(zeros([n], ScalarType.Float32, owner._device));
        }

        public Tensor Middle { get; }

        public Tensor Qkv { get; }

        /// <summary>Attention's output times the output projection's A.</summary>
        public Tensor AttentionProjected { get; }

        public Tensor GateUp { get; }

        public Tensor Scale1 { get; }

        public Tensor Scale2 { get; }

        public AttentionState Attention { get; } = new();

        /// <summary>q (0), k (1) or v (2) as [tokens, heads, e], as attention reads them.</summary>
        public Tensor Part(int which)
        {
            LlamaShape shape = _owner._shape;
            Tensor from = which < 2 && _owner._turned is { } turned ? turned : Qkv;
            return from.as_strided([_owner._tokens, which == 0 ? shape.Heads : shape.KeyHeads, shape.HeadSize], [from.size(1), shape.HeadSize, 1], Start(which));
        }

        private long Start(int which) => which == 0 ? 0 : (_owner._shape.Heads + ((which - 1) * _owner._shape.KeyHeads)) * _owner._shape.HeadSize;
    }
}

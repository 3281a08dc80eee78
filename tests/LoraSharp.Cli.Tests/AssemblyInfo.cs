// Commands write to the one console, which tests put aside.
[assembly: CollectionBehavior(DisableTestParallelization = true)]

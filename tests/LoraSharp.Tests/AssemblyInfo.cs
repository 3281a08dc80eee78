// Leak tests compare the number of all live tensors, and torch uses every core in each test as it is.
[assembly: CollectionBehavior(DisableTestParallelization = true)]

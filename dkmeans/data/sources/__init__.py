"""Sources: one module for each kind of table that rows are read from.

Each module has a class that implements `Source` of `data.chunks`, and a function that returns the
chunks of a given array or address as a `Batch`. `dataset` and `input_fn` call these functions on
the driver. The rows themselves are read later, by `Source.read`, on the worker that loads a chunk.
"""

"""Data: how the rows of a user become the chunks that workers load.

A `Dataset` yields batches. A `Batch` is a short description of any number of chunks. A `Chunk`
names consecutive rows of a `Source`, a table in storage or memory. All of them pickle without the
rows of stored tables: the worker that needs a chunk loads it.

`sources` has a module for each kind of table, `views` has sources that read from other sources.
`points` converts rows to float32 or float64. `cache` keeps loaded rows between iterations.
"""

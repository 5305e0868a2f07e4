"""The native backend: Numba kernels for the processor that they run on.

`backend` has the functions that `dkmeans.backends.select` hands out. It takes packed centers from
`packed_centers` and calls the compiled functions in `kernels`. These use the vector instructions of
`tile_vectors` for scores and of `sum_vectors` for sums, and the matrix unit of `matrix`
(docs/decisions/004) or the products of bytes of `eight_bits` (docs/decisions/033). `bounds` keeps
what an iteration has found for the next one: `groups` of centers, and the kernel `reassign` with
the instructions of `group_vectors` (docs/decisions/022).
"""

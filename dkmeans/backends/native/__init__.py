"""The native backend: Numba kernels for the processor that they run on.

`backend` has the functions that `dkmeans.backends.select` hands out. It takes packed centers from
`packing` and calls the compiled functions in `kernels`. These use the vector instructions of
`vectors` and the matrix unit of `matrix`. docs/decisions/004 explains why the kernels are as they
are.
"""

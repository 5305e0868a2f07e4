"""Makes Numba ready to load kernels, in the process from which the workers of tests are forked.

The first compilation of a process imports some 200 modules: each worker would do that anew.
"""

import numba

numba.njit(lambda number: number)(1)

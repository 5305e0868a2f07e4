"""The CUDA backend: kernels for NVIDIA GPUs.

`backend` has the backend's functions. `launches` computes them with the kernels of the folder
`kernels`, which `compiler` compiles, and `fallback` replaces them after an error of the GPU:
`device_centers` and `few_centers` prepare the centers, `pieces` cuts the rows, `nearest_centers`
finds their nearest centers, `chunk_sums` adds them up, and `device_sums` are the sums. `device` is
the GPU: streams, buffers and kernels. `staging` brings rows to it through page-locked memory, and
`resident` caches rows on it. `kernel_trial` checks the answers before anything is computed. Only
`device` imports CuPy, so tests run the rest without a GPU.
"""

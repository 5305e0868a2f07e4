"""The CUDA backend: kernels for NVIDIA GPUs, and CuPy's functions where these cannot run.

`backend` has the backend's functions. It chooses between `launches`, which runs the kernels of
`kernels.cu`, and `dkmeans.backends.array_api`. `device` is the GPU: streams, buffers and compiled
kernels. `resident` caches rows on it. Only `device` imports CuPy, so tests run the rest without a
GPU.
"""

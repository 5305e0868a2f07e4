"""Benchmarks that run without a GPU or other libraries: they print a table for a tiny size."""

from tests.programs import output_of

# Runs the script that is the first argument, with the other arguments.
RUN = "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"


def test_streaming_to_a_gpu_is_measured_on_the_processor_too():
    sizes = ["--gigabytes", 0.008, "--chunk-megabytes", 1, "--clusters", 4, "--steps", 3]
    printed = output_of(RUN, "benchmarks/gpu_streaming.py", *sizes, "--backend", "native")
    *_, uncompressed, compressed = printed.splitlines()
    assert uncompressed.startswith("| none | 0.01 | ")
    assert compressed.startswith("| default | ")
    for line in (uncompressed, compressed):
        _, _, _, decoded, pcie, trained, ratio, _ = map(str.strip, line.split("|"))
        assert not pcie
        assert min(map(float, (decoded, trained, ratio))) >= 0

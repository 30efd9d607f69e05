"""Every registered algorithm on the layers it does, weights prepared; the ones of a group do the same work."""

import pytest

from convforge.bench.ceilings import peak_backend


def test_pass(benchmark, measure, peak, trial, layer, problem, pass_, algorithm):
    running = trial(problem, pass_)
    entry = running.enter(algorithm, "prepared")
    error, limit = running.error(entry), algorithm.error(problem, pass_)
    assert error <= limit, "no speed without the error that it states"

    benchmark.group = f"{pass_} {layer}"
    seconds = measure(entry.run)
    benchmark.extra_info.update(
        problem=str(problem), algorithm=algorithm.name, backend=algorithm.backend, error=error, error_limit=limit,
        workspace_bytes=entry.workspace_bytes,
    )  # fmt: skip
    if seconds is not None:
        rate, most = problem.flops(pass_) / seconds, peak(problem.dtype)
        benchmark.extra_info.update(flops_per_second=rate, peak_share=most and rate / most)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak(benchmark, measure, threads, dtype):
    """What the shares of peak are of."""
    from convforge.bench.ceilings import fma_peak

    backend = peak_backend()
    if backend is None:
        pytest.skip("no compiled backend")
    ceiling = fma_peak(dtype, backend, threads)
    benchmark.group = "multiply-add peak"
    seconds = measure(ceiling.run)
    if seconds is not None:
        benchmark.extra_info["flops_per_second"] = ceiling.amount / seconds

"""Threads: counts, many Python threads at once, forks, the pool that stands in for the compiled runner."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import convforge as cf
from convforge.plan import Plan
from convforge.registry import backend_missing
from convforge.runtime import executor, threads

PROBLEM = "n4c16k32i28x28f3x3p1"
COMPILED = [backend for backend in ("cython", "numba") if backend_missing(backend) is None]


def _operands(rng):
    x = rng.standard_normal((4, 16, 28, 28)).astype(np.float32)
    return x, rng.standard_normal((32, 16, 3, 3)).astype(np.float32)


def _python(code, **environment):
    """Run a program in a fresh process and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_set_num_threads_and_context():
    limit = cf.get_num_threads()
    try:
        with cf.num_threads(1):
            assert cf.get_num_threads() == 1
            with cf.num_threads(limit + 5):
                assert cf.get_num_threads() == limit
            assert cf.get_num_threads() == 1
        assert cf.get_num_threads() == limit
        cf.set_num_threads(1)
        assert cf.get_num_threads() == 1
    finally:
        cf.set_num_threads(limit)


def test_context_is_per_thread():
    limit = cf.get_num_threads()
    with cf.num_threads(1), ThreadPoolExecutor(1) as pool:
        assert pool.submit(cf.get_num_threads).result() == limit


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_bad_thread_counts(value, error):
    with pytest.raises(error, match="num_threads must be"):
        cf.set_num_threads(value)
    with pytest.raises(error, match="num_threads must be"), cf.num_threads(value):
        pass


@pytest.mark.skipif(threads.native_missing is not None, reason="the compiled runner is not built here")
def test_openmp_limits_are_kept():
    with threadpool_limits(1, user_api="openmp"):
        assert cf.get_num_threads() == 1
    assert _python("import convforge; print(convforge.get_num_threads())", OMP_NUM_THREADS="1") == "1\n"


def test_affinity_is_kept():
    code = """
        import os, convforge
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(convforge.get_num_threads())
    """
    assert _python(code) == "1\n"


@pytest.mark.parametrize("backend", COMPILED)
def test_sixteen_python_threads(backend, rng):
    x, weight = _operands(rng)
    plan = cf.plan(PROBLEM, backend=backend)
    expected = plan(x, weight)

    def work(_):
        return all(np.array_equal(plan(x, weight), expected) for _ in range(20))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


@pytest.mark.parametrize("backend", COMPILED)
def test_first_calls_of_sixteen_threads(backend):
    """Sixteen threads that import, compile and plan at the same moment."""
    code = f"""
        import threading
        import numpy as np
        x, w = np.ones((2, 8, 12, 12), np.float32), np.ones((8, 8, 3, 3), np.float32)
        start, results = threading.Barrier(16), []
        def work():
            start.wait()
            import convforge as cf
            results.append(cf.conv2d(x, w, algorithm="im2col", backend="{backend}").sum())
        workers = [threading.Thread(target=work) for _ in range(16)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        print(len(results), set(results) == {{float(2 * 8 * 100 * 72)}})
    """
    assert _python(code) == "16 True\n"


@pytest.mark.parametrize("backend", COMPILED)
def test_fork_after_a_parallel_call(backend):
    code = f"""
        import os
        import numpy as np, convforge as cf
        rng = np.random.default_rng(0)
        x = rng.standard_normal((4, 16, 28, 28)).astype(np.float32)
        w = rng.standard_normal((32, 16, 3, 3)).astype(np.float32)
        y = cf.conv2d(x, w, backend="{backend}")
        child = os.fork()
        if child == 0:
            same = np.array_equal(cf.conv2d(x, w, backend="{backend}"), y) and cf.get_num_threads() == 1
            os._exit(0 if same else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(np.array_equal(cf.conv2d(x, w, backend="{backend}"), y))
    """
    assert _python(code) == "0\nTrue\n"


@pytest.mark.skipif(threads.native_missing is not None, reason="the compiled runner is not built here")
def test_workers_are_reused():
    """Many more submitting threads than cores share one set of workers, which does not grow."""
    code = """
        import os
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np, convforge as cf
        from convforge.runtime import threads
        threads.get_num_threads = lambda: 4
        rng = np.random.default_rng(0)
        x = rng.standard_normal((4, 16, 28, 28)).astype(np.float32)
        w = rng.standard_normal((32, 16, 3, 3)).astype(np.float32)
        plan = cf.plan("n4c16k32i28x28f3x3p1", backend="{backend}")
        count = lambda: len(os.listdir("/proc/self/task"))
        before = count()
        y = plan(x, w)
        started = count() - before
        submitters = 4 * (os.cpu_count() or 1)
        def work(_):
            return all(np.array_equal(plan(x, w), y) for _ in range(50))
        with ThreadPoolExecutor(submitters) as pool:
            same = all(pool.map(work, range(submitters)))
            most = count() - before - len(pool._threads)
        print(same, started <= 3, most <= 3)
    """
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc to count threads in")
    assert _python(code.replace("{backend}", COMPILED[0])) == "True True True\n"


@pytest.mark.skipif(
    threads.native_missing is not None or not hasattr(os, "sched_getaffinity") or not os.path.isdir("/proc/self/task"),
    reason="no compiled pool, or no way to see where its threads may run",
)
def test_workers_stay_off_the_callers_cpu_and_within_their_mask():
    code = """
        import os, time
        import numpy as np, convforge as cf
        from convforge.runtime import threads
        cpus = os.sched_getaffinity(0)
        threads.get_num_threads = lambda: 3
        x, w = np.ones((4, 16, 28, 28), np.float32), np.ones((32, 16, 3, 3), np.float32)
        plan = cf.plan("n4c16k32i28x28f3x3p1")
        tasks = lambda: set(map(int, os.listdir("/proc/self/task")))
        before = tasks()
        y = plan(x, w)
        workers = tasks() - before
        def masks():
            for _ in range(20):
                time.sleep(2e-3)  # the workers fall asleep
                assert np.array_equal(plan(x, w), y)
            return [os.sched_getaffinity(worker) for worker in workers]
        shunned = [cpus - mask for mask in masks()]
        if len(cpus) > 1:
            assert all(len(each) == 1 for each in shunned), shunned
        else:
            assert not any(shunned), shunned
        pinned = [each or cpus for each in shunned]  # by somebody else, and not to what the pool would choose
        for worker, mask in zip(workers, pinned):
            os.sched_setaffinity(worker, mask)
        assert masks() == pinned
        print(len(workers))
    """
    assert _python(code) == "2\n"


def test_fork_while_the_pool_is_busy():
    code = """
        import os, threading
        import numpy as np, convforge as cf
        from convforge.runtime import threads
        threads.get_num_threads = lambda: 1 if threads._forked else 4
        rng = np.random.default_rng(0)
        x = rng.standard_normal((4, 16, 28, 28)).astype(np.float32)
        w = rng.standard_normal((32, 16, 3, 3)).astype(np.float32)
        plan = cf.plan("n4c16k32i28x28f3x3p1")
        y = plan(x, w)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                plan(x, w)
        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers: worker.start()
        codes = set()
        for attempt in range(20):
            child = os.fork()
            if child == 0:
                if attempt % 2:  # the compiled pool itself knows that it has no workers here
                    threads.get_num_threads = lambda: 4 if threads.native_missing is None else 1
                os._exit(0 if np.array_equal(plan(x, w), y) else 1)
            codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stop.set()
        for worker in workers: worker.join()
        print(codes, np.array_equal(plan(x, w), y))
    """
    assert _python(code) == "{0} True\n"


def test_multiprocessing_fork_pool():
    code = """
        import multiprocessing
        import numpy as np, convforge as cf
        x, w = np.ones((4, 16, 28, 28), np.float32), np.ones((32, 16, 3, 3), np.float32)
        cf.conv2d(x, w)
        def work(_):
            return float(cf.conv2d(x, w)[0, 0, 0, 0])
        with multiprocessing.get_context("fork").Pool(3) as pool:
            print(set(pool.map(work, range(9))))
    """
    assert _python(code) == "{144.0}\n"


@pytest.mark.parametrize("backend", COMPILED)
def test_pool_runner_gives_the_same_bits(backend, rng, monkeypatch):
    """Without a compiler the stages run on a pool of Python threads."""
    x, weight = _operands(rng)
    bias = rng.standard_normal(32).astype(np.float32)
    plan = Plan(cf.parse(PROBLEM), ("forward",), backend=backend)
    expected, upside_down = plan(x, weight, bias), plan(x[:, :, ::-1], weight)
    monkeypatch.setattr(threads, "Runner", threads.PoolRunner)
    for count in (1, 2, 3):
        monkeypatch.setattr(executor.threads, "get_num_threads", lambda count=count: count)
        plan = Plan(cf.parse(PROBLEM), ("forward",), backend=backend)
        np.testing.assert_array_equal(plan(x, weight, bias), expected)
        np.testing.assert_array_equal(plan(x[:, :, ::-1], weight), upside_down)


def test_items_are_covered_once(monkeypatch):
    """More threads than cores share out every item exactly once."""
    monkeypatch.setattr(threads, "get_num_threads", lambda: 7)
    rng = np.random.default_rng(1)
    x, weight = _operands(rng)
    plan = Plan(cf.parse(PROBLEM), ("forward", "grad_input", "grad_weight"))
    out = np.full(plan.problem.output_shape, np.nan, np.float32)
    plan(x, weight, out=out)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("workers", [2, 7])
def test_no_item_is_done_twice(workers, backend, monkeypatch):
    """Sums that are added to an output tap by tap would count twice."""
    plan = cf.plan("n1c64k64i40x40f3x3p30d30", algorithm="im2col", backend=backend)
    rng = np.random.default_rng(2)
    x = rng.integers(-8, 8, plan.problem.input_shape).astype(np.float32)
    weight = rng.integers(-8, 8, plan.problem.weight_shape).astype(np.float32)
    exact = cf.plan(plan.problem, algorithm="reference")(x, weight)
    monkeypatch.setattr(threads, "get_num_threads", lambda: workers)
    for _ in range(20):
        np.testing.assert_array_equal(plan(x, weight), exact)

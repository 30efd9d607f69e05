"""Other work on the machine: it is waited for, and told of."""

import hashlib
import threading
import time

from convforge.bench import neighbours, settling


def test_settling_waits_for_threads_that_run():
    settling.settle()
    assert not settling._others_running()
    # one long call without the GIL, for which a thread would sleep in between
    worker = threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"password", b"salt", 4_000_000))
    worker.start()
    while worker.is_alive() and not settling._others_running():
        time.sleep(1e-3)
    begin = time.perf_counter()
    settling.settle()
    waited = time.perf_counter() - begin
    still = worker.is_alive()
    worker.join()
    assert still
    assert waited >= settling._LONGEST


def test_what_others_use_is_a_share():
    share = neighbours.watch()
    time.sleep(0.05)
    assert 0 <= share() <= 1.5  # clock ticks are coarse

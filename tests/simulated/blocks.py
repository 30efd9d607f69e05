"""Numba's simulator, whose blocks are made to wait instead of polling their threads: some times faster.

Numba's own loop asks every thread of a block in turn whether it is alive, on the interpreter's only lock.
"""

import threading

import numpy as np
from numba.cuda.simulator import kernel


class Barrier:
    """``syncthreads`` of one block: the last of the threads that still run opens it."""

    def __init__(self, count):
        self.running = count
        self.waiting = []
        self.lock = threading.Lock()
        self.failed = False

    def wait(self):
        gate = threading.Lock()
        gate.acquire()
        with self.lock:
            self.waiting.append(gate)
            self._open_if_all()
        gate.acquire()
        if self.failed:
            raise RuntimeError("another thread of the block failed")

    def leave(self, failed):
        with self.lock:
            self.running -= 1
            self.failed |= failed
            self._open_if_all()

    def _open_if_all(self):
        if len(self.waiting) == self.running or self.failed:
            gates, self.waiting = self.waiting, []
            for gate in gates:
                gate.release()


class Thread(kernel.BlockThread):
    def run(self):
        super().run()
        self._manager.barrier.leave(self.exception is not None)

    def syncthreads(self):
        self._manager.barrier.wait()


class Blocks(kernel.BlockManager):
    def run(self, grid_point, *args):
        self.barrier = Barrier(int(np.prod(self._block_dim)))
        threads = [
            Thread(lambda: self._f(*args), self, grid_point, block_point, self._debug)
            for block_point in np.ndindex(*self._block_dim)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for thread in threads:
            if thread.exception:
                raise thread.exception[0].with_traceback(thread.exception[1])


def install():
    kernel.BlockManager = Blocks

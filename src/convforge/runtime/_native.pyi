import numpy as np

def thread_limit() -> int: ...

class Runner:
    def __init__(self, slots: np.ndarray, stages: np.ndarray, expected: np.ndarray) -> None: ...
    def plain(self, arrays: tuple[np.ndarray | None, ...]) -> bool: ...
    def run(
        self,
        arrays: tuple[np.ndarray | None, ...],
        first: int,
        end: int,
        scratch: int,
        scratch_bytes: int,
        threads: int,
    ) -> None: ...

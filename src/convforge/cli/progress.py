"""A progress bar for what takes longer than a second, on a terminal's standard error."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

_PATIENCE = 1.0


class Progress:
    """Call it with what is going on and the finished fraction; a bar appears after a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), console=console, transient=True
        )
        self._task = self._bar.add_task("", total=1.0)
        self._timer = threading.Timer(_PATIENCE, self._bar.start) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __call__(self, what: str, fraction: float) -> None:
        """Show ``what`` and the finished ``fraction``."""
        self._bar.update(self._task, description=what, completed=fraction)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._bar.stop()

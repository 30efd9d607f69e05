"""What this installation can do here: machine, instruction set, threads, backends."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from convforge import registry
from convforge.runtime import gpu, threads
from convforge.runtime.machine import machine
from convforge.version import __version__


def config() -> dict[str, Any]:
    """The configuration as plain data; ``backends`` maps each backend to None, or to why it is missing."""
    backends = {backend: registry.backend_missing(backend) for backend in registry.BACKENDS}
    return {
        "version": __version__,
        "machine": asdict(machine()),
        "threads": threads.get_num_threads(),
        "runner": threads.native_missing or "threads of its own",
        "backends": backends,
        "gpus": [asdict(each) for each in gpu.visible()],
    }


def show_config() -> None:
    """Print version, machine, instruction set, threads, and every backend with the reason if it is missing."""
    found = config()
    here = found["machine"]
    lines = [
        f"convforge {found['version']}, Python {sys.version.split()[0]}",
        f"isa       {here['isa']}",
        f"caches    L1 {here['l1'] >> 10} KiB, L2 {here['l2'] >> 10} KiB, L3 {here['l3'] >> 10} KiB",
        f"threads   {found['threads']} of {here['cores']} cores",
        f"runner    {found['runner']}",
    ]
    for backend, missing in found["backends"].items():
        lines.append(f"{backend:9} {missing or 'available'}")
    lines += gpu_lines(found["gpus"])
    print("\n".join(lines))


def gpu_lines(gpus: list[dict[str, Any]]) -> list[str]:
    """A line for each GPU, as :func:`config` gives them."""
    return [
        f"gpu {number:<6} {each['name']}, compute capability {'.'.join(map(str, each['compute_capability']))}, "
        f"{each['multiprocessors']} multiprocessors, {each['memory'] / 2**30:.0f} GiB, "
        f"{each['bandwidth'] / 1e9:.0f} GB/s"
        for number, each in enumerate(gpus)
    ]

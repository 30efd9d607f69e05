"""``convforge info``."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Show the machine, the instruction set in use, threads, backends, GPUs, and where compiled kernels are kept."""
    from convforge.config import gpu_lines

    found = _collect()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    here = found["machine"]
    caches = ", ".join(f"{name.upper()} {here[name] >> 10} KiB" for name in ("l1", "l2", "l3"))
    lines = [
        ("convforge", f"{found['version']}, Python {here['python']}, NumPy {here['numpy']}"),
        ("machine", here["cpu"]),
        ("system", here["system"]),
        ("isa", f"{here['isa']} (this CPU can run {', '.join(found['isas'])})"),
        ("caches", caches),
        ("threads", f"{found['threads']} of {here['cores']} cores, {found['runner']}"),
        *((backend, missing or "available") for backend, missing in found["backends"].items()),
        ("cache", f"{found['cache']['path']}, {found['cache']['files']} files, {found['cache']['bytes']} bytes"),
    ]
    for name, text in lines:
        click.echo(f"{name:10} {text}")
    for line in gpu_lines(found["gpus"]):
        click.echo(line)


def _collect() -> dict[str, Any]:
    from convforge.bench import host
    from convforge.config import config
    from convforge.runtime import cache
    from convforge.runtime.machine import runnable

    kept = cache.info()
    return {
        **config(),
        "machine": host.describe(),
        "isas": list(runnable()),
        "cache": {"path": str(kept.path), "files": kept.files, "bytes": kept.bytes},
    }

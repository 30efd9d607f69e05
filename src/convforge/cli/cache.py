"""``convforge cache``."""

from __future__ import annotations

import json

import click


@click.group()
def cache() -> None:
    """Look after the object code that the Numba backend keeps between processes."""


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(as_json: bool) -> None:
    """Show where it is and what it holds."""
    from convforge.runtime import cache as kept

    found = kept.info()
    if as_json:
        click.echo(json.dumps({"path": str(found.path), "files": found.files, "bytes": found.bytes}, indent=2))
        return
    click.echo(f"path   {found.path}\nfiles  {found.files}\nbytes  {found.bytes}")


@cache.command()
def clear() -> None:
    """Delete it; kernels are compiled again when they are needed."""
    from convforge.runtime import cache as kept

    click.echo(f"{_counted(kept.clear(), 'file')} deleted")


@cache.command()
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(["float32", "float64"]), help="Only this one; both."
)
def warm(dtypes: tuple[str, ...]) -> None:
    """Compile every kernel now, so that no later process has to."""
    from convforge import registry
    from convforge.cli.errors import BadInput
    from convforge.runtime import cache as kept

    missing = registry.backend_missing("numba")
    if missing is not None:
        raise BadInput(f"there is nothing to compile with: {missing}")
    seconds = 0.0
    count = 0
    for kernel, dtype, spent in kept.warm(dtypes or ("float32", "float64")):
        click.echo(f"{dtype}  {kernel:24} {spent:7.2f} s")
        seconds += spent
        count += 1
    click.echo(f"{_counted(count, 'kernel')} in {seconds:.1f} s, kept in {kept.info().path}")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"

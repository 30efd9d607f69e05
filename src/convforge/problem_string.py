"""The grammar of problem strings, ``[kind:]n1c64k64i56x56f3x3s1p1d1g1[:flag]...``, to and from a problem's fields."""

from __future__ import annotations

import re
from typing import Any

from convforge.checks import DTYPES, Pairs

EXAMPLE = "n1c64k64i56x56f3x3p1 or max:n1c64i112x112f3s2p1"

#: Letters in the order they are written, and the fields they stand for; those in _DEFAULTS may be left out.
_CONV = {"n": "n", "c": "c", "k": "k", "i": "input", "f": "kernel", "s": "stride", "p": "padding", "d": "dilation",
         "g": "groups"}  # fmt: skip
_POOL = {letter: name for letter, name in _CONV.items() if letter not in "kg"}
_LETTERS = {"conv": _CONV, "max": _POOL, "avg": _POOL}
_DEFAULTS = {"s": 1, "p": 0, "d": 1, "g": 1}
_SCALARS = "nckg"

#: Flags of each kind: the field they set, and its value; ``int`` where the value follows, as in ``divisor=3``.
_FLAGS: dict[str, dict[str, tuple[str, Any]]] = {
    "conv": {"bias": ("bias", True)},
    "max": {"ceil": ("ceil_mode", True), "indices": ("indices", True)},
    "avg": {
        "ceil": ("ceil_mode", True),
        "exclude_pad": ("count_include_pad", False),
        "divisor": ("divisor_override", int),
    },
}

_SIZE = r"\d+(?:_\d+)?"
_FIELD = re.compile(rf"([a-z])({_SIZE}(?:x{_SIZE})*)", re.ASCII)
_FLAG = re.compile(r"([a-z][a-z0-9_]*)(?:=(\d+))?", re.ASCII)


def read(text: str) -> tuple[str, dict[str, Any]]:
    """Return the kind and the fields of the problem that ``text`` names; a ValueError says where it fails."""
    if not isinstance(text, str):
        raise TypeError(f"a problem string must be a str, got {text!r} of type {type(text).__name__}")
    parts = text.split(":")
    is_kind = parts[0] in _LETTERS or (parts[0] != "" and not re.search(r"\d", parts[0]))
    kind = parts.pop(0) if is_kind else "conv"
    if kind == "transposed":
        raise failure(text, kind, "transposed convolutions are not available")
    if kind not in _LETTERS:
        raise failure(text, kind, f"a kind is one of {', '.join(_LETTERS)}")
    body, *flags = parts or [""]
    return kind, _read_sizes(text, kind, body) | _read_flags(text, kind, flags)


def write(problem: Any) -> str:
    """Return the string that reads as ``problem``'s kind and fields; sizes that all axes share are written once."""
    kind: str = problem.kind
    text = "" if kind == "conv" else f"{kind}:"
    for letter, name in _LETTERS[kind].items():
        value = getattr(problem, name)
        sizes = [_write_size(size) for size in ([value] if letter in _SCALARS else value)]
        if letter in _DEFAULTS and set(sizes) == {str(_DEFAULTS[letter])}:
            continue
        shared = letter in _DEFAULTS and len(set(sizes)) == 1
        text += letter + (sizes[0] if shared else "x".join(sizes))
    for flag, (name, wanted) in _FLAGS[kind].items():
        value = getattr(problem, name)
        if wanted is int and value is not None:
            text += f":{flag}={value}"
        elif wanted is not int and value == wanted:
            text += f":{flag}"
    return text if problem.dtype == DTYPES[0] else f"{text}:{problem.dtype}"


def failure(text: str, where: str, why: str) -> ValueError:
    """Return the error of a problem string, to be raised."""
    at = f" at {where!r}" if where else ""
    return ValueError(f"problem string {text!r} fails{at}: {why} (an example: {EXAMPLE})")


def _read_sizes(text: str, kind: str, body: str) -> dict[str, Any]:
    letters = _LETTERS[kind]
    found = _split(text, body)
    for letter in found:
        if letter not in letters:
            raise failure(text, letter, f"a letter of {kind} is one of {', '.join(letters)}")
    missing = [letter for letter in letters if letter not in found and letter not in _DEFAULTS]
    if missing:
        raise failure(text, "", f"the sizes {', '.join(missing)} are missing")
    ndim = len(found["i"])
    fields: dict[str, Any] = {}
    for letter, name in letters.items():
        default = _DEFAULTS.get(letter, 0)
        axes = _spread(text, letter, found.get(letter, ((default, default),)), 1 if letter in _SCALARS else ndim)
        if letter == "p":
            fields[name] = axes
            continue
        if any(before != after for before, after in axes):
            raise failure(text, letter, "only p takes (before, after) pairs")
        fields[name] = axes[0][0] if letter in _SCALARS else tuple(before for before, _ in axes)
    return fields


def _split(text: str, body: str) -> dict[str, Pairs]:
    """Each letter's sizes; a size without ``_`` is a pair of equals."""
    found: dict[str, Pairs] = {}
    position = 0
    while position < len(body):
        match = _FIELD.match(body, position)
        if match is None:
            raise failure(text, body[position:], "a letter and its sizes are expected, such as i56x56 or p1_2x0_1")
        if match[1] in found:
            raise failure(text, match[0], f"{match[1]} stands twice")
        found[match[1]] = tuple(_read_size(size) for size in match[2].split("x"))
        position = match.end()
    return found


def _spread(text: str, letter: str, sizes: Pairs, count: int) -> Pairs:
    """``count`` sizes: one serves all axes."""
    if len(sizes) == 1:
        return sizes * count
    if len(sizes) != count:
        wanted = "1 size" if count == 1 else f"1 or {count} sizes"
        raise failure(text, letter, f"{letter} takes {wanted} here, got {len(sizes)}")
    return sizes


def _read_flags(text: str, kind: str, flags: list[str]) -> dict[str, Any]:
    known = _FLAGS[kind] | {dtype: ("dtype", dtype) for dtype in DTYPES}
    fields: dict[str, Any] = {}
    for part in flags:
        match = _FLAG.fullmatch(part)
        if match is None:
            raise failure(text, part or ":", "a flag reads :name or :name=number")
        if match[1] not in known:
            raise failure(text, part, f"a flag of {kind} is one of {', '.join(known)}")
        name, value = known[match[1]]
        if (match[2] is not None) != (value is int):
            raise failure(text, part, f"the flag {'needs a' if value is int else 'takes no'} number")
        if name in fields:
            raise failure(text, part, f"{name} is set twice")
        fields[name] = int(match[2]) if value is int else value
    return fields


def _read_size(size: str) -> tuple[int, int]:
    before, _, after = size.partition("_")
    return int(before), int(after or before)


def _write_size(size: int | tuple[int, int]) -> str:
    if isinstance(size, int):
        return str(size)
    before, after = size
    return str(before) if before == after else f"{before}_{after}"

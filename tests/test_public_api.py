"""Everything public is documented and annotated, and the examples in docstrings and pages say what really comes out."""

import doctest
import importlib
import inspect
import pkgutil
import re
import typing
from pathlib import Path

import numpy as np
import pytest

import convforge as cf
from convforge import filters

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def functions():
    """Every public function by name, and what plans do."""
    found = {name: getattr(cf, name) for name in cf.__all__}
    found |= {f"filters.{name}": getattr(filters, name) for name in ("named", "box", "gaussian")}
    for name, method in vars(cf.Plan).items():
        if inspect.isfunction(method) and (not name.startswith("_") or name == "__call__"):
            found[f"Plan.{name}"] = method
    return {name: value for name, value in found.items() if callable(value) and not inspect.isclass(value)}


FUNCTIONS = [pytest.param(function, id=name) for name, function in functions().items()]
CLASSES = [pytest.param(getattr(cf, name), id=name) for name in cf.__all__ if inspect.isclass(getattr(cf, name))]


def sections(documented):
    """The sections of a NumPy-style docstring by title; the summary goes by ''."""
    parts = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", inspect.getdoc(documented) or "", flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented_names(section):
    """The names that a Parameters section describes; one entry may describe several."""
    lines = [line.partition(" : ")[0] for line in section.splitlines() if line and not line.startswith(" ")]
    return {name.strip() for line in lines for name in line.split(",")}


def parameters(function):
    names = inspect.signature(inspect.unwrap(function)).parameters
    return set(names) - {"self"}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_is_documented(function):
    found = sections(function)
    assert found[""].strip()
    if parameters(function):
        assert documented_names(found.get("Parameters", "")) == parameters(function)
        assert "Raises" in found
    returned = inspect.signature(function).return_annotation
    if returned not in (None, "None") and parameters(function):
        assert "Returns" in found or "Yields" in found or "Iterator" in str(returned)


@pytest.mark.parametrize("class_", CLASSES)
def test_class_is_documented(class_):
    assert sections(class_)[""].strip()
    for name, member in vars(class_).items():
        if isinstance(member, property) or inspect.isfunction(member):
            assert name.startswith("_") or inspect.getdoc(member), name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_is_annotated(function):
    function = inspect.unwrap(function)
    hints = typing.get_type_hints(function)
    assert set(hints) == parameters(function) | {"return"}


def modules():
    """Every module that can be imported with what the tests need: not the peers that benchmarks compare with."""
    names = [module.name for module in pkgutil.walk_packages(cf.__path__, "convforge.")]
    left_out = (".kernels.", ".peers.", ".__main__", "._native")
    return ["convforge", *(name for name in names if not any(part in name for part in left_out))]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_in_pages(page):
    names = {"np": np, "cf": cf}
    assert doctest.testfile(str(page), module_relative=False, globs=names, encoding="utf-8").failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_pages(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target

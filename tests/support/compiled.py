"""Which code is compiled: that of a few modules, in the wheel that docs/deployment.md tells how to build."""

from __future__ import annotations

import sys

import pytest


def is_compiled(cls: type[object]) -> bool:
    """Is this class in a module that is compiled? Such a class cannot be subclassed, nor can its methods and
    slots be replaced.
    """
    return not str(sys.modules[cls.__module__].__file__).endswith(".py")


def interpreted(*classes: type[object]) -> pytest.MarkDecorator:
    """Mark a test that subclasses these classes, replaces parts of them, or counts what they execute: it is
    skipped where one of them is compiled.
    """
    compiled = [cls.__name__ for cls in classes if is_compiled(cls)]
    return pytest.mark.skipif(bool(compiled), reason=f"compiled: {', '.join(compiled)}")

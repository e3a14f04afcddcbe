"""Errors a user can meet: each message says what is wrong, where, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CodesignError(Exception):
    """Base of every error the command line prints as one line with exit code 2."""


class BadModel(CodesignError):
    """The model file is malformed, unsafe or inconsistent."""


class UnsupportedOperator(BadModel):
    """The model holds an operator, opset or data type that cannot be handled."""


class UnboundDimension(BadModel):
    """A symbolic dimension has no value and cannot be given one."""


class BadParameter(CodesignError):
    """A device, option or parameter name or value is wrong."""


class DoesNotFit(CodesignError):
    """An execution would need more memory than it may take."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean a, b?"` for the known names closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""

"""The one exception that people see: bad input, told in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CopoError(ValueError):
    """Bad input. The message is one line: which input, what is wrong with it, what to do.

    The command line prints the message and exits with code 2; Python callers catch it as a `ValueError`.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> CopoError:
    """The error for a misspelt name: says the nearest known one, or lists the first few.

    Args:
        kind: What the name names, e.g. "expression".
        name: What the user wrote.
        known: The names that exist.
    """
    names = list(known)
    by_lower = {n.lower(): n for n in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    known_text = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    hint = f"did you mean {by_lower[near[0]]!r}?" if near else f"known: {known_text}"
    return CopoError(f"unknown {kind} {name!r}: {hint}")

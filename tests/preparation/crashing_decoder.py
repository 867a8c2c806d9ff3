"""Loaded by every Python process of a test: reading the picture COPO_TEST_BOMB ends the process, as a faulty native
decoder does."""

import os
import sys
from typing import Any


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if (
        event == "open"
        and str(arguments[0]).endswith(os.environ["COPO_TEST_BOMB"])
        and "spawn_main" in str(sys.orig_argv)
    ):
        os._exit(11)


if os.environ.get("COPO_TEST_BOMB"):
    sys.addaudithook(_watch)

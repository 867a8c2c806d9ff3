"""The work folder: one file for each finished unit, so that a run can be killed at any moment and go on.

    OUT/work/plan.json            what is to be done, and how
    OUT/work/units/ab/abcd....zip the result of unit abcd...
    OUT/work/lock-...             held by a running process

A result appears by renaming a finished file; its name follows from the unit. So nothing is lost, nothing is there
twice, several machines may work in one folder, and folders of several machines can be copied together.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from copo.errors import CopoError
from copo.formats.atomic import write_bytes
from copo.preparation.units import Plan, UnitResult, result_from_bytes, result_to_bytes


class WorkFolder:
    """Results of one plan."""

    def __init__(self, out: Path) -> None:
        """Args: out: Folder of the data set."""
        self.path = out / "work"

    def has(self, unit: str) -> bool:
        """Whether a unit is done."""
        return self._place(unit).is_file()

    def put(self, result: UnitResult) -> None:
        """Store a result.

        Raises:
            CopoError: The disk is full, or the folder cannot be written.
        """
        self.put_bytes(result.unit, result_to_bytes(result))

    def put_bytes(self, unit: str, data: bytes) -> None:
        """Store a result that was encoded elsewhere."""
        write_bytes(self._place(unit), data)

    def get(self, unit: str) -> UnitResult:
        """Read a result.

        Raises:
            CopoError: There is none, or it is damaged.
        """
        try:
            data = self._place(unit).read_bytes()
        except OSError as error:
            raise CopoError(f"{self._place(unit)}: {error.strerror}: run the same command again") from None
        return result_from_bytes(data)

    def begin(self, plan: Plan) -> None:
        """Store the plan, or check that the folder belongs to the same choices.

        Photographs that came or went since are no hindrance: finished units that are still wanted are kept.

        Raises:
            CopoError: The folder was begun with other choices.
        """
        known = self.plan()
        if known is not None and known.config != plan.config:
            mine, theirs = plan.config.to_dict(), known.config.to_dict()
            name = next(key for key in mine if mine[key] != theirs[key])
            raise CopoError(
                f"{self.path} was begun with other choices ({name}: {theirs[name]}, now {mine[name]}): "
                "give the same ones, or another --out, or delete that folder"
            )
        if known is None or known.id != plan.id:
            write_bytes(self.path / "plan.json", plan.to_bytes())

    def plan(self) -> Plan | None:
        """The stored plan, or None."""
        try:
            return Plan.from_bytes((self.path / "plan.json").read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CopoError(f"{self.path / 'plan.json'}: {error.strerror}") from None

    def remove(self) -> None:
        """Delete all results."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process at a time do the part `name`; the system frees the lock when the process ends in any way.

        Raises:
            CopoError: Another process holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / f"lock-{name}", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CopoError(f"--out {self.path.parent}: cannot write there: {(error.strerror or '').lower()}") from None
        try:
            try:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # no such locks on this system: results are the same whoever stores them
                pass
            except OSError:
                raise CopoError(f"another copo prepare is working in {self.path}: wait for it or stop it") from None
            yield
        finally:
            with suppress(OSError):
                os.close(handle)

    def _place(self, unit: str) -> Path:
        return self.path / "units" / unit[:2] / f"{unit}.zip"

"""Expression coefficients from files other than data sets: animation curves and sequences of factors."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.formats.factor_files import load_factors


def read_expressions(path: Path, spec: FactorSpec) -> Tensor:
    """Expressions of a file or folder.

    Args:
        path: A LiveLink Face .csv (columns named by ARKit units, in any case), a factor file, or a folder of them.
        spec: Whose expression names and range count.

    Returns:
        (N, expression) in the head model's units.

    Raises:
        CopoError: The file is missing, empty, damaged or of another head model.
    """
    if path.is_dir():
        files = sorted(
            p for p in path.iterdir() if p.suffix.lower() in (".csv", ".mat", ".npz", ".json", ".safetensors")
        )
        if not files:
            raise CopoError(f"curves {path}: no .csv, .mat, .npz, .json or .safetensors in this folder")
        return torch.cat([read_expressions(file, spec) for file in files])
    if path.suffix.lower() == ".csv":
        return _read_csv(path, spec)
    factors = load_factors(path, spec).factors
    if factors.spec.head != spec.head or factors.spec.expression != spec.expression:
        raise CopoError(f"curves {path}: of head {factors.spec.head!r}, this prior is for {spec.head!r}")
    return factors.expression.float()


def _read_csv(path: Path, spec: FactorSpec) -> Tensor:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CopoError(f"curves {path}: cannot be read as CSV; export it again") from error
    if not rows:
        raise CopoError(f"curves {path}: no frames in it")
    columns = {name.strip().lower(): name for name in rows[0] if name}
    known = [(i, columns[n.lower()]) for i, n in enumerate(spec.expression_names) if n.lower() in columns]
    if not known:
        raise CopoError(f"curves {path}: no column is named like an expression of head {spec.head!r}, e.g. "
                        f"{spec.expression_names[0]}")  # fmt: skip
    out = torch.zeros(len(rows), spec.expression)
    for number, row in enumerate(rows):
        for i, column in known:
            try:
                out[number, i] = float(row[column])
            except (TypeError, ValueError):
                raise CopoError(f"curves {path}: frame {number + 1} has {row[column]!r} for {column}") from None
    if not torch.isfinite(out).all():
        raise CopoError(f"curves {path}: a value is not finite")
    return out.clamp(*spec.expression_range)

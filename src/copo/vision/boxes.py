"""Boxes of detectors: overlap, and choosing one box for each face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def overlap(box: Array, boxes: Array) -> Array:
    """Intersection over union of one (4,) box with (N, 4) boxes (left, top, right, bottom) -> (N,)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    union = areas + np.clip(box[2:] - box[:2], 0, None).prod() - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0.0)


def suppress(values: Array, scores: Array, threshold: float, blend: bool = False) -> tuple[Array, Array]:
    """Non-maximum suppression: of boxes that overlap by more than `threshold`, one remains.

    Args:
        values: (N, 4 + K) boxes, and numbers that belong to them (points).
        scores: (N,).
        threshold: Intersection over union, 0 to 1.
        blend: The remaining box is the mean of its group, weighted by score (MediaPipe), instead of its best.

    Returns:
        (M, 4 + K) and (M,), best score first.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[Array] = []
    kept_scores: list[float] = []
    while order.size:
        best = order[0]
        group = order[overlap(values[best, :4], values[order, :4]) > threshold] if order.size > 1 else order
        group = group if best in group else np.concatenate([[best], group])
        weights = scores[group] / scores[group].sum()
        kept.append(weights @ values[group] if blend else values[best])
        kept_scores.append(float(scores[best]))
        order = order[~np.isin(order, group)]
    return np.array(kept).reshape(-1, values.shape[1]), np.array(kept_scores)

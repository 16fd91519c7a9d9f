"""Names beside points, placed so that none lies on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LETTER, _LINE, _GAP, _POINT = 7.0, 14.0, 9.0, 5.0  # pixels


@dataclass(frozen=True)
class Label:
    """Where a name goes: its near end in pixels from the upper left corner, and the side of the point that it is on."""

    x: float
    y: float
    side: str


def placed(
    names: Sequence[str], points: Sequence[tuple[float, float]], width: float, height: float
) -> dict[int, Label]:
    """Places names beside their points, the first ones first; one for which there is no room has none.

    Args:
        names: what to write.
        points: pixels from the upper left corner, of the named points and then of others that no name may cover.
        width: of the view.
        height: of the view.
    """
    taken = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    found: dict[int, Label] = {}
    for index, name in enumerate(names):
        x, y = points[index]
        long = _LETTER * len(name)
        for dy in (-11.0, 11.0, 0.0, -22.0, 22.0):
            # Right of the point first, where that lies in the left half.
            for side in ("right", "left") if x < width / 2 else ("left", "right"):
                begin = x + _GAP if side == "right" else x - _GAP - long
                box = (begin, y + dy - _LINE / 2, begin + long, y + dy + _LINE / 2)
                inside = box[0] >= 0 and box[2] <= width and box[1] >= -2 and box[3] <= height
                if index not in found and inside and not any(_meet(box, other) for other in taken):
                    found[index] = Label(x + _GAP if side == "right" else x - _GAP, y + dy, side)
                    taken.append(box)
    return found


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

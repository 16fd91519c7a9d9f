"""Which options of `resnet` go together; nothing here imports PyTorch, so that a dry run can ask too."""

from regx.errors import UserError

# Depth -> number of blocks in each stage: He et al. 2016, table 1, and their 6n + 2 layers for CIFAR.
IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECKS = (50, 101, 152)
CIFAR = {depth: ((depth - 2) // 6,) * 3 for depth in (20, 32, 44, 56, 110)}
STAGES: dict[int, tuple[int, ...]] = dict(sorted({**IMAGENET, **CIFAR}.items()))


def stage_widths(depth: int, width_multiplier: float) -> list[int]:
    """Channels or units of the stages (of the 3x3 convolutions in bottlenecks): int(64 m^k), for CIFAR int(16 m^k).

    Raises:
        UserError: a stage would have none.
    """
    found = [int((16 if depth in CIFAR else 64) * width_multiplier**k) for k in range(len(STAGES[depth]))]
    if min(found) < 1:
        raise UserError(
            f"{width_multiplier:g} leaves stage {found.index(0) + 1} without channels; use a larger number",
            "width_multiplier",
        )
    return found


def check(*, depth: int, unit_type: str, skip_connections: bool, width_multiplier: float, init: str, stem: str) -> None:
    """Refuses what does not go together; each argument is an option of `resnet`, and legal by itself.

    Raises:
        UserError: it names the option.
    """
    if depth not in STAGES:
        nearest = min(STAGES, key=lambda known: abs(known - depth))
        known = ", ".join(map(str, STAGES))
        raise UserError(f"{depth} is not among the depths {known}; did you mean {nearest}?", "depth")
    stage_widths(depth, width_multiplier)
    if init in ("fixup", "zero_last") and not skip_connections:
        raise UserError(f"{init} starts every residual branch at 0 and so needs skip_connections", "init")
    if stem != "auto" and unit_type == "dense":
        raise UserError(f"{stem} is a stem for images; unit_type=dense has none to choose, use auto", "stem")
    if stem not in ("auto", "32") and depth in CIFAR:
        raise UserError(f"{stem} does not fit depth {depth}, whose stem is that for 32 pixels; use auto", "stem")

"""How strong a penalty is in each epoch: schedules of the strength, and a controller that steers it to a sparsity."""

import math
from dataclasses import dataclass, fields
from typing import Any, Self

from regx.errors import UserError
from regx.parameters import Bounds, Parameter, check_options

SCHEDULES = {
    "constant": "stays at the strength",
    "linear": "goes from other_end to the strength in a straight line",
    "cosine": "goes from the strength to other_end along half a cosine",
    "exponential": "goes from the strength towards other_end, the distance multiplied by gamma every epoch",
    "agp": "goes from other_end to the strength, fast at first: the cubic of automated gradual pruning",
}

PARAMETERS = (
    Parameter("schedule", "str", "constant", "How the strength changes over the epochs.", choices=tuple(SCHEDULES)),
    Parameter(
        "other_end",
        "float",
        0.0,
        "Strength at the schedule's other end: linear and agp begin there, cosine and exponential go there.",
        bounds=Bounds(0),
    ),
    Parameter(
        "cycle_length",
        "int",
        None,
        "Epochs that linear, cosine and agp take from one end to the other (default: they arrive in the last epoch).",
        bounds=Bounds(1),
        optional=True,
    ),
    Parameter(
        "oscillate",
        "bool",
        False,
        "Whether cosine swings back after cycle_length epochs instead of staying at other_end.",
    ),
    Parameter("gamma", "float", 0.99, "Factor per epoch of the exponential schedule.", bounds=Bounds(above=0, high=1)),
    Parameter(
        "warmup",
        "int",
        0,
        "Epochs over which a factor on the strength rises in a straight line: 1/warmup, 2/warmup, ... 1.",
        bounds=Bounds(0),
    ),
    Parameter("start", "int", 1, "First epoch with the penalty.", bounds=Bounds(1)),
    Parameter(
        "end",
        "int",
        None,
        "Last epoch with the penalty (default: the last of the run).",
        bounds=Bounds(1),
        optional=True,
    ),
    Parameter("every", "int", 1, "The penalty is on in every so many epochs, from start on.", bounds=Bounds(1)),
    Parameter(
        "clip",
        "float",
        None,
        "Largest value of the penalty before it is multiplied by the strength; above it, it has no gradient.",
        bounds=Bounds(above=0),
        optional=True,
    ),
    Parameter(
        "target_sparsity",
        "float",
        None,
        "Share of groups to be exactly zero at the end; the strength is only where the search begins.",
        bounds=Bounds(above=0, high=0.999),
        optional=True,
    ),
)

# Which schedules read an option that the others would ignore.
_READ_BY = {
    "other_end": ("linear", "cosine", "exponential", "agp"),
    "cycle_length": ("linear", "cosine", "agp"),
    "oscillate": ("cosine",),
    "gamma": ("exponential",),
}


@dataclass(frozen=True)
class Strength:
    """Strength of a penalty by epoch. Epochs count from 1, as in metrics.csv.

    With `e` = epoch - start and T = `cycle_length`, the schedules are (p = min(e / T, 1), not cut at 1 by `oscillate`)

        constant     base
        linear       other_end + (base - other_end) p
        cosine       other_end + (base - other_end) (1 + cos(pi p)) / 2
        exponential  other_end + (base - other_end) gamma^e
        agp          base + (other_end - base) (1 - p)^3

    and T is by default the last epoch of the window less the first, so that p = 1 in the last epoch; a window of one
    epoch has the strength `base`. During the warm-up the value is multiplied by min((e + 1) / warmup, 1), the schedule
    moving on beneath it. Outside the window from `start` to `end`, and between every `every`-th epoch, it is 0.

        Strength(1e-4, schedule="agp", start=5).at(epoch=10, epochs=100)

    Sources: cosine as in torch.optim.lr_scheduler.CosineAnnealingLR (Loshchilov & Hutter 2017); agp and the windows
    (there a range whose end is excluded) as in IntelLabs/distiller; M. Zhu, S. Gupta, "To prune, or not to prune",
    arXiv:1710.01878.

    Attributes:
        base: the strength, at least 0.
        clip: for the training loop, which cuts the penalty there; `at` does not use it.
        target_sparsity: for the training loop, which then asks `controller` for the strength; `at` gives the `base`.

    Raises:
        UserError: a value that is not legal, or an option that the schedule would ignore. An option at its default
            counts as not given.
    """

    base: float
    schedule: str = "constant"
    other_end: float = 0.0
    cycle_length: int | None = None
    oscillate: bool = False
    gamma: float = 0.99
    warmup: int = 0
    start: int = 1
    end: int | None = None
    every: int = 1
    clip: float | None = None
    target_sparsity: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", Parameter("strength", "float", bounds=Bounds(0)).check(self.base))
        for parameter in PARAMETERS:
            object.__setattr__(self, parameter.name, parameter.check(getattr(self, parameter.name)))
        for option, readers in _READ_BY.items():
            if self._given(option) and self.schedule not in readers:
                raise UserError(f"is for schedule={' or '.join(readers)}, not {self.schedule}", option)
        if self.end is not None and self.end < self.start:
            raise UserError(f"{self.end} is before start, {self.start}", "end")
        if self.end is not None:
            self._check_warmup(self.end)
        if self.target_sparsity is not None:
            for option in ("schedule", "warmup", "end", "every"):
                if self._given(option):
                    raise UserError("cannot be set with target_sparsity, which sets the strength itself", option)
            if self.base == 0:
                raise UserError("0 gives target_sparsity nothing to begin from; use 1e-4, say", "strength")

    @classmethod
    def from_options(cls, base: float, options: dict[str, Any]) -> Self:
        """Makes a strength of options by name, whose values may be text.

        Raises:
            UserError: as the class, or an option of another name.
        """
        return cls(base, **check_options("the strength", PARAMETERS, options))

    def check(self, epochs: int) -> None:
        """Raises `UserError` where the window does not fit into a run of `epochs` epochs."""
        if self.start > epochs:
            raise UserError(f"{self.start} is after the last epoch, {epochs}", "start")
        if self.end is not None and self.end > epochs:
            raise UserError(f"{self.end} is after the last epoch, {epochs}", "end")
        self._check_warmup(self.end or epochs)

    def at(self, epoch: int, epochs: int) -> float:
        """Strength in an epoch.

        Args:
            epoch: the epoch, counted from 1.
            epochs: epochs of the run.

        Returns:
            The strength, 0 outside the window.

        Raises:
            UserError: as `check`.
        """
        self.check(epochs)
        last = self.end or epochs
        moved = epoch - self.start
        if not self.start <= epoch <= last or moved % self.every:
            return 0.0
        factor = min((moved + 1) / self.warmup, 1.0) if self.warmup else 1.0
        return factor * (self.base if last == self.start else self._scheduled(moved, last - self.start))

    @property
    def peak(self) -> float:
        """The highest strength that it comes to, at most; 0 where it never acts."""
        return max(self.base, self.other_end)

    def settles(self, epochs: int) -> int:
        """The epoch from which on the penalty has its strength: after the warm-up, and where linear and agp end.

        With `target_sparsity` it is the epoch at which the target shall be reached. Annealing away from the strength
        (cosine, exponential) does not count. Until then, a network is not yet what the penalty shall make of it.

        Args:
            epochs: epochs of the run.
        """
        last = self.end or epochs
        if self.peak == 0:
            return 1
        if self.target_sparsity is not None:
            return self.start + math.ceil(0.85 * (last - self.start))
        moves = (self.cycle_length or last - self.start) if self.schedule in ("linear", "agp") else 0
        return min(self.start + max(moves, self.warmup - 1, 0), last)

    def controller(self, epochs: int) -> "Controller | None":
        """What steers the strength in a run of `epochs` epochs; None without a `target_sparsity`."""
        if self.target_sparsity is None:
            return None
        self.check(epochs)
        return Controller(self.target_sparsity, epochs, self.base, self.start)

    def _scheduled(self, moved: int, span: int) -> float:
        progress = moved / (self.cycle_length or span)
        if not self.oscillate:
            progress = min(progress, 1.0)
        # How much of the way from `other_end` to `base` is left or done.
        share = {
            "constant": 1.0,
            "linear": progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
            "exponential": self.gamma**moved,
            "agp": 1 - (1 - progress) ** 3,
        }[self.schedule]
        return self.other_end + (self.base - self.other_end) * share

    def _given(self, option: str) -> bool:
        return getattr(self, option) != _DEFAULTS[option]

    def _check_warmup(self, last: int) -> None:
        if self.warmup > last - self.start + 1:
            raise UserError(
                f"{self.warmup} epochs are more than the {last - self.start + 1} from {self.start} to {last}", "warmup"
            )


class Controller:
    """Steers a strength so that a wanted share of groups is exactly zero at the end of training.

    A reference share r rises from the share at the start to `target`, fast at first (the cubic of automated gradual
    pruning), reaches it after 85 % of the epochs and stays there. After every epoch, the log of the strength moves by
    gain * (logit r - logit s): integral action, in coordinates where the response to the strength is near a straight
    line. On real networks zeros are slow to come, come many at once and rarely go away again (dead ReLUs, closed
    gates), so what matters is to slow down before the target rather than to come back to it:

    * s is not the share now but the one expected in four epochs (in runs of less than 80, after 5 % of them). The share
      of groups that are not zero, and the size of the penalty, which sinks long before the first group is zero, both
      shrank by a factor in the last epoch; the smaller factor is taken to go on. A growing size or a falling share is
      not extrapolated.
    * Where s is above r, the strength falls five times as fast as it would rise for the same error the other way.

    The move is limited per epoch, so that little winds up while nothing reacts; the gain shrinks whenever the error
    changes its sign, and recovers slowly. The strength stays within a factor of 1e6 of `base`.

    In 20 epochs or more the strength can rise by 6 orders of magnitude, so a `base` too low is safe. One far too high
    may zero at once more groups than wanted, and not every model lets these come back. On small dense and convolutional
    networks the share mostly ended within 0.05 of the target; on simulated problems that are smooth and reversible,
    within 0.04, in runs of only 20 epochs within 0.06.

        controller = Controller(0.5, epochs=100, base=1e-4)
        for epoch in range(1, 101):
            regularizer.strength = controller.strength
            ...
            controller.update(epoch, regularizer.zero_share().item(), regularizer.loss.item())

    Args:
        target: share of zero groups wanted at the end, between 0 and 1, both excluded.
        epochs: epochs of the run.
        base: strength to begin at, above 0.
        start: first epoch with the penalty, counted from 1; before it, the strength is 0.

    Raises:
        UserError: a value out of these bounds.
    """

    def __init__(self, target: float, epochs: int, base: float, start: int = 1) -> None:
        if not 0 < target < 1:
            raise UserError(f"{target} is out of bounds; use a number between 0 and 1", "target_sparsity")
        if not (base > 0 and math.isfinite(base)):
            raise UserError(f"{base} is out of bounds; use a finite number above 0", "strength")
        if not 1 <= start <= epochs:
            raise UserError(f"{start} is not one of the {epochs} epochs", "start")
        self._target, self._start, self._length = target, start, epochs - start + 1
        self._origin = math.log(base)
        # The constants here and in `update` were chosen on small networks and on simulated plants.
        self._first_gain = min(0.4, 40 / self._length)
        self._rate = min(1.0, 20 / self._length)
        self._lead = min(4.0, self._length / 20)
        self._edge = min(0.005, target / 2, (1 - target) / 2)
        self._log, self._gain = self._origin, self._first_gain
        self._begun = start == 1
        self._first: float | None = None
        self._share = self._size = self._error = 0.0

    @property
    def strength(self) -> float:
        """Strength for the next epoch."""
        return math.exp(self._log) if self._begun else 0.0

    def update(self, epoch: int, share: float, size: float = 0.0) -> float:
        """Takes in what an epoch led to.

        Args:
            epoch: the epoch that ended, counted from 1.
            share: share of groups that are exactly zero now, 0 to 1.
            size: value of the penalty now, without its strength; 0 where there is none to go by.

        Returns:
            The strength for the next epoch.

        Raises:
            UserError: the share is not within 0 and 1.
        """
        if not 0 <= share <= 1:
            raise UserError(f"a share of zero groups of {share} is not within 0 and 1", "target_sparsity")
        self._begun = epoch + 1 >= self._start
        if self._first is None or epoch < self._start:
            self._first, self._share, self._size = share, share, size
        if epoch < self._start:
            return self.strength
        progress = min((epoch - self._start + 1) / (0.85 * self._length), 1.0)
        reference = self._target + (self._first - self._target) * (1 - progress) ** 3
        kept = min(1.0, _ratio(1 - share, 1 - self._share), _ratio(size, self._size))
        error = self._logit(reference) - self._logit(1 - (1 - share) * kept**self._lead)
        if error * self._error < 0:
            self._gain = max(0.8 * self._gain, self._first_gain / 20)
        else:
            self._gain = min(1.03 * self._gain, self._first_gain * 4)
        self._share, self._size, self._error = share, size, error
        move = self._gain * error if error > 0 else 5 * self._gain * error
        self._log += min(max(move, -3 * self._rate), self._rate)
        self._log = min(max(self._log, self._origin - math.log(1e6)), self._origin + math.log(1e6))
        return self.strength

    def state_dict(self) -> dict[str, Any]:
        """Where the controller is; plain values only."""
        return {name: getattr(self, f"_{name}") for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken from a controller with the same arguments.

        Raises:
            UserError: the state is of something else.
        """
        if set(state) != set(_STATE):
            raise UserError(f"expected the state of a controller ({', '.join(_STATE)}), not {', '.join(state)}")
        for name in _STATE:
            setattr(self, f"_{name}", state[name])

    def _logit(self, share: float) -> float:
        share = min(max(share, self._edge), 1 - self._edge)
        return math.log(share / (1 - share))


def _ratio(now: float, before: float) -> float:
    return now / before if before > 0 else 1.0


_STATE = ("log", "gain", "begun", "first", "share", "size", "error")
_DEFAULTS = {field.name: field.default for field in fields(Strength)}

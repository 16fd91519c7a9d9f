"""Random numbers of a regularizer's own: what it draws changes nothing else in a run."""

import re
from typing import Any

import torch

from regx.errors import UserError


class Generators:
    """One random generator per device, apart from the global ones: what they draw changes nothing else in a run."""

    def __init__(self) -> None:
        self._of: dict[str, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device, seeded with `torch.initial_seed()` when it is first asked for."""
        if str(device) not in self._of:
            self._of[str(device)] = torch.Generator(device).manual_seed(torch.initial_seed())
        return self._of[str(device)]

    def state_dict(self) -> dict[str, Any]:
        """State of every generator, by device."""
        return {device: generator.get_state() for device, generator in self._of.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`.

        Raises:
            UserError: the state is something else's.
        """
        if not all(
            isinstance(value, torch.Tensor) and re.fullmatch(r"\w+(:\d+)?", name) for name, value in state.items()
        ):
            raise UserError(f"this is no state of random generators: {', '.join(map(repr, state))}")
        for device, value in state.items():
            self.on(torch.device(device)).set_state(value.cpu())

"""An observer that says nothing."""


class Silent:
    """What watches a run whose progress nobody reads."""

    def started(self, lines: list[str]) -> None:
        pass

    def step(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        pass

    def row(self, row: dict[str, float], epochs: int) -> None:
        pass

    def warn(self, message: str) -> None:
        pass

"""Loads weights that somebody trained: from a file, or torchvision's from its hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regx.errors import RunFailed, UserError
from regx.models.external import AUXILIARY
from regx.models.resnet import ResNet

# What wrappers put before every name: nn.DataParallel and DistributedDataParallel, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")


def load(model: nn.Module, source: str, *, name: str = "") -> list[str]:
    """Puts trained weights into `model`.

    The last layer stays as it is where the file's has another number of outputs; everything else must fit.

    Args:
        model: any model.
        source: `torchvision` for the default weights of torchvision, or the path of a file: a state_dict, alone or as
            the entry `model` or `state_dict` of a checkpoint, such as the `best.pt` of a run.
        name: what the model was created as (`resnet`, `torchvision:resnet50`); only `torchvision` needs it.

    Returns:
        What was loaded and what was not, a line each.

    Raises:
        UserError: no such file, or it belongs to another architecture, or torchvision has no weights for the model.
        RunFailed: the file is damaged or cannot be downloaded.
    """
    if source == "torchvision":
        state, origin = _from_torchvision(_torchvision_name(model, name))
    else:
        state, origin = _from_file(Path(source).expanduser()), source
    own = model.state_dict()
    notes = []
    kept: list[str] = []
    head = _head(model)
    if head is not None:
        keys = [f"{head}.{part}" for part in ("weight", "bias") if f"{head}.{part}" in own]
        if keys and all(key in state and state[key].shape[1:] == own[key].shape[1:] for key in keys):
            outputs, found = len(own[keys[0]]), len(state[keys[0]])
            if outputs != found:
                kept = keys
                notes = [f"{head} has {found} outputs in {origin} and {outputs} here, so it starts untrained"]
    _compare(state, own, kept, origin)
    loaded = {key: value for key, value in state.items() if key not in kept}
    model.load_state_dict(loaded, strict=False)
    return [f"{len(loaded)} tensors from {origin}", *notes]


def beside(source: str) -> dict[str, Any]:
    """What a file holds beside the weights of a compact network: its `recipe` and `moments`; mostly neither.

    Raises:
        UserError: no such file.
        RunFailed: the file is damaged.
    """
    state = {} if source == "torchvision" else _read(Path(source).expanduser())
    return {key: state[key] for key in ("recipe", "moments") if isinstance(state, Mapping) and key in state}


def _torchvision_name(model: nn.Module, name: str) -> str:
    if isinstance(model, ResNet):
        return model.torchvision_name()
    library, _, own_name = name.partition(":")
    if library != "torchvision":
        raise UserError(
            f"torchvision has no weights for {name or type(model).__name__}; give the path of a file", "pretrained"
        )
    if own_name in AUXILIARY:
        raise UserError(
            f"torchvision's weights of {own_name} expect images normalized in another way; give the path of a file",
            "pretrained",
        )
    return own_name


def _from_torchvision(name: str) -> tuple[dict[str, Tensor], str]:
    """The default weights and what they are called; from the cache of torch.hub, or else from the network."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    try:
        # Not the file itself: some models rename the tensors of their older files.
        state = torchvision.models.get_model(name, weights=weights, progress=False).state_dict()
    except Exception as error:  # network, certificate, disk or damaged file: each with types of its own
        cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
        raise RunFailed(
            f"cannot get {weights.url} ({' '.join(str(error).split())}); put the file at {cached}, or use"
            " --pretrained PATH"
        ) from error
    return state, str(weights)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"there is no file {path}", "pretrained")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files; the cause stays chained
        raise RunFailed(
            f"{path} is damaged or holds more than tensors; save model.state_dict() with torch.save"
        ) from error


def _from_file(path: Path) -> dict[str, Tensor]:
    state = _read(path)
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state_dict, neither by itself nor as `model` or `state_dict`", "pretrained")
    return {_unwrapped(str(key)): value for key, value in state.items()}


def _unwrapped(key: str) -> str:
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    return key


def _head(model: nn.Module) -> str | None:
    """Name of the last linear or convolutional module."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return names[-1] if names else None


def _compare(state: dict[str, Tensor], own: dict[str, Tensor], kept: list[str], origin: str) -> None:
    """Raises `UserError` unless both have the same tensors, but for those `kept` and the counters of old files."""
    problems = {
        "missing": [key for key in own if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
            for key, value in state.items()
            if key in own and key not in kept and value.shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {what} ({keys[0]})" for what, keys in problems.items() if keys]
    if found:
        raise UserError(
            f"{origin} is of another architecture: {', '.join(found)}; the model has {len(own)} tensors", "pretrained"
        )

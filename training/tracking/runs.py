"""Mirrors a run to Weights & Biases while it trains; the run folder stays the truth, so nothing here stops a run."""

import os
import secrets
import shlex
import socket
import threading
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args
from urllib.parse import urlsplit

from regx.errors import RunFailed, UserError

Mode = Literal["auto", "online", "offline", "disabled"]
"""`auto` is online where an API key is found and the server answers, else offline."""

PROBE_SECONDS = 3.0
INIT_SECONDS = 15.0
FINISH_SECONDS = 60.0

BEST_OF = {
    "min": ("train/loss", "val/loss", "test/loss"),
    "max": ("train/acc", "val/acc", "test/acc", "train/r2", "val/r2", "test/r2"),
}
_ENVIRONMENT_MODES = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


class Tracker(Protocol):
    """Takes a run's numbers and pictures. No method raises, whatever happens to the server.

    Attributes:
        mode: what was resolved: `online`, `offline` or `disabled`.
        url: page of the run; `None` unless online.
        sync_hint: the command that uploads what only lies on this disk; `None` where there is nothing to upload.
    """

    mode: str
    url: str | None
    sync_hint: str | None

    def log(self, row: dict[str, float], step: int) -> None:
        """Logs the numbers of one epoch; `step` must not decrease."""
        ...

    def image(self, key: str, path: Path, step: int) -> None:
        """Logs a picture that lies on disk."""
        ...

    def summary(self, values: dict[str, Any]) -> None:
        """Sets the run's summary values, which its row in a table shows."""
        ...

    def finish(self, exit_code: int = 0) -> None:
        """Ends the run and waits at most `FINISH_SECONDS` for the upload. A second call does nothing."""
        ...


class NullTracker:
    """Drops everything (mode `disabled`)."""

    mode: str = "disabled"
    url: str | None = None
    sync_hint: str | None = None

    def log(self, row: dict[str, float], step: int) -> None:
        """Does nothing."""

    def image(self, key: str, path: Path, step: int) -> None:
        """Does nothing."""

    def summary(self, values: dict[str, Any]) -> None:
        """Does nothing."""

    def finish(self, exit_code: int = 0) -> None:
        """Does nothing."""


class WandbTracker:
    """A `wandb.Run` that goes quiet after one warning instead of raising."""

    def __init__(self, run: Any, mode: str, warn: Callable[[str], None], upload_as: str | None) -> None:
        self.mode = mode
        self.url: str | None = run.url if mode == "online" else None
        self._run = run
        self._warn = warn
        self._upload_as = upload_as
        self._failed = False
        self._finished = False
        self.sync_hint: str | None = self._sync_command() if mode == "offline" else None

    def log(self, row: dict[str, float], step: int) -> None:
        """Logs the numbers of one epoch; a row without `epoch` gets `step` as its epoch, the x axis of every chart."""
        self._attempt("log", lambda: self._run.log({"epoch": step, **row}, step=step))

    def image(self, key: str, path: Path, step: int) -> None:
        """Logs a picture that lies on disk; W&B's folder gets a copy."""
        self._attempt("log a picture", lambda: self._run.log({"epoch": step, key: _image(path)}, step=step))

    def summary(self, values: dict[str, Any]) -> None:
        """Sets the run's summary values."""
        self._attempt("write the summary", lambda: self._run.summary.update(values))

    def finish(self, exit_code: int = 0) -> None:
        """Ends the run; what could not be uploaded in time stays on disk and `sync_hint` names it."""
        if self._finished:
            return
        self._finished = True
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:
            self._fail("finish", error)

    def _attempt(self, what: str, call: Callable[[], Any]) -> None:
        if self._failed or self._finished:
            return
        try:
            call()
        except Exception as error:
            self._fail(what, error)

    def _sync_command(self) -> str:
        folder = Path(self._run.dir).parent
        words = ["wandb", "sync"]
        if self.mode == "online":
            return shlex.join([*words, "--include-online", str(folder)])
        if self._upload_as:
            words += ["--id", self._upload_as]
        # A resumed run has one folder per session; `wandb sync` uploads them in order of start.
        return shlex.join([*words, *map(str, sorted(folder.parent.glob(f"offline-run-*-{self._run.id}")))])

    def _fail(self, what: str, error: Exception) -> None:
        self.sync_hint = self._sync_command()
        if not self._failed:
            self._warn(f"wandb could not {what} ({reason(error)}); the run goes on and its folder stays complete")
        self._failed = True


def start(
    *,
    mode: Mode,
    run_dir: Path,
    config: dict[str, Any],
    warn: Callable[[str], None],
    name: str | None = None,
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    run_id: str | None = None,
    job_type: str | None = None,
    sweep: str | None = None,
) -> Tracker:
    """Starts tracking a run; its files land in `run_dir/wandb`.

    Never prompts. W&B's own environment variables hold where the caller says nothing (`WANDB_MODE` for mode `auto`,
    `WANDB_ENTITY`, ... for arguments that are `None`), and `WANDB_RUN_ID`, set by a sweep agent, always.

    Args:
        mode: see `Mode`. Online falls back to offline, with a warning, where the server cannot be used.
        run_dir: folder of the run.
        config: options of the run; JSON values.
        warn: called with one line whenever the result is less than what was asked for.
        name: how the run is shown.
        project: W&B project; `None` means `WANDB_PROJECT`, or `regx`.
        entity: user or team.
        group: runs that belong together (one sweep).
        tags: words to filter by.
        run_id: identity of the run: a resumed run that gives the same one continues in the same place online.
        job_type: what the run is (`train`).
        sweep: id (not path) of the W&B sweep that the run belongs to, online and after `wandb sync`. An agent's
            `WANDB_SWEEP_ID` goes before it.

    Raises:
        UserError: `mode` or `WANDB_MODE` is not a mode.
    """
    wanted = _wanted(mode)
    if wanted == "disabled":
        return NullTracker()
    try:
        settings = _settings()
    except Exception as error:
        warn(f"wandb cannot start ({reason(error)}), so this run is not tracked; its folder stays complete")
        return NullTracker()
    if wanted == "auto" and settings.mode in ("disabled", "offline", "dryrun"):  # of `wandb offline` in this folder
        wanted = _ENVIRONMENT_MODES[settings.mode]
        if wanted == "disabled":
            return NullTracker()

    run_dir.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, Any] = {
        "dir": str(run_dir),
        "config": config,
        "name": name,
        "project": project or os.environ.get("WANDB_PROJECT") or "regx",
        "entity": entity,
        "group": group,
        "tags": list(tags) or None,
        "job_type": job_type,
        "sweep": sweep,
    }
    if run_id is not None and "WANDB_RUN_ID" not in os.environ:
        arguments |= {"id": run_id, "resume": "allow"}

    upload_as = None
    if wanted in ("auto", "online"):
        obstacle, has_key = _obstacle(settings)
        if obstacle is None:
            try:
                return _begin("online", warn, **arguments)
            except Exception as error:
                obstacle = f"the server refused the run ({reason(error)})"
                # wandb's service keeps the id of a run that failed to start, so the offline one needs another.
                upload_as = os.environ.get("WANDB_RUN_ID", run_id)
                arguments |= {"id": secrets.token_hex(4), "resume": None}
        if wanted == "online" or has_key:
            warn(f"wandb: {obstacle}; tracking offline instead")
    try:
        return _begin("offline", warn, upload_as, **arguments)
    except Exception as error:
        warn(f"wandb cannot start ({reason(error)}), so this run is not tracked; its folder stays complete")
        return NullTracker()


def describe_login() -> str:
    """Says in one line whether mode `auto` would be online now, and if not, why."""
    wanted = _wanted("auto")
    if wanted in ("disabled", "offline"):
        return f"{wanted}: WANDB_MODE says so"
    settings = _settings()
    if wanted == "auto" and settings.mode in ("disabled", "offline", "dryrun"):
        return f"{_ENVIRONMENT_MODES[settings.mode]}: wandb's settings say so"
    obstacle, _ = _obstacle(settings)
    return f"online at {settings.base_url}" if obstacle is None else f"offline: {obstacle}"


def _wanted(mode: str) -> str:
    if mode not in get_args(Mode):
        raise UserError(f"{mode!r} is not among its choices; known: {', '.join(get_args(Mode))}", "wandb")
    variable = os.environ.get("WANDB_MODE", "").strip().lower()
    if mode != "auto" or not variable:
        return mode
    if variable not in _ENVIRONMENT_MODES:
        raise UserError(f"{variable!r} is not a mode; use online, offline or disabled", "WANDB_MODE")
    return _ENVIRONMENT_MODES[variable]


def _settings() -> Any:
    """W&B's own settings, of its environment variables and files."""
    # They refuse an empty WANDB_SILENT and the like; empty means unset everywhere else.
    for variable in [key for key, value in os.environ.items() if key.startswith("WANDB_") and not value.strip()]:
        del os.environ[variable]
    import wandb

    return wandb.setup(wandb.Settings(silent=True)).settings


def _begin(
    mode: Literal["online", "offline"], warn: Callable[[str], None], upload_as: str | None = None, **arguments: Any
) -> Tracker:
    return WandbTracker(begin(mode, **arguments), mode, warn, upload_as)


def begin(mode: Literal["online", "offline"], *, sweep: str | None = None, **arguments: Any) -> Any:
    """A `wandb.Run` with regx's settings; raises what `wandb.init` does.

    Args:
        mode: online or offline.
        sweep: id of the sweep that the run belongs to; `WANDB_SWEEP_ID` goes before it.
        **arguments: of `wandb.init`.
    """
    import wandb

    settings = wandb.Settings(
        console="off",  # the terminal belongs to regx's own progress bar
        disable_git=True,  # env.json holds the commit
        disable_code=True,
        save_code=False,
        x_disable_stats=True,
        use_dot_wandb=False,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        reinit="create_new",  # runs that train together in one process are all open at once
    )
    if sweep is not None and "WANDB_SWEEP_ID" not in os.environ:
        # Of this run alone: the variable is read once per process, and W&B then ignores each run's project and id.
        settings.sweep_id = sweep
    run = wandb.init(mode=mode, settings=settings, **arguments)
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    for best, keys in BEST_OF.items():
        for key in keys:
            run.define_metric(key, step_metric="epoch", summary=best)
    return run


def need_server(instead: str) -> Any:
    """W&B's settings, once it is sure that there is a key and that the server answers.

    Args:
        instead: what works without a server, as the end of a sentence.

    Raises:
        RunFailed: there is no key, the server does not answer within `PROBE_SECONDS`, or W&B is switched off.
        UserError: `WANDB_MODE` is not a mode.
    """
    wanted = _wanted("auto")
    try:
        settings = _settings()
    except Exception as error:
        raise RunFailed(f"wandb cannot start ({reason(error)}); {instead}") from None
    if wanted == "auto":
        wanted = _ENVIRONMENT_MODES.get(settings.mode, "online")
    obstacle = _obstacle(settings)[0] if wanted == "online" else f"W&B is switched to {wanted}"
    if obstacle:
        raise RunFailed(f"this needs the W&B server, but {obstacle}; {instead}")
    return settings


def _obstacle(settings: Any) -> tuple[str | None, bool]:
    """What keeps a run from being online (`None`: nothing), and whether an API key was found."""
    from wandb.sdk.lib import wbauth

    try:
        # Private, but the one place that knows every source of a key; the wandb version is pinned to its minor.
        key = wbauth.authenticate_session(host=settings.base_url, source="regx", prompt=False, update_session=False)
    except Exception as error:
        return f"the API key cannot be used ({reason(error)})", True
    if key is None:
        return f"no API key for {settings.base_url} (run `wandb login` or set WANDB_API_KEY)", False
    if not _answers(settings.base_url):
        return f"{settings.base_url} does not answer", True
    return None, True


def _answers(url: str) -> bool:
    """Whether a connection to the server of `url`, or to the proxy on the way to it, opens within `PROBE_SECONDS`."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and host not in ("localhost", "127.0.0.1", "::1") and not urllib.request.proxy_bypass(host):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    opened = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=PROBE_SECONDS).close()
        except OSError:
            return
        opened.set()

    # In a thread, as a name server that does not answer holds a look-up up for longer than any socket time-out.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return opened.is_set()


def _image(path: Path) -> Any:
    import wandb

    return wandb.Image(str(path))


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]}..."

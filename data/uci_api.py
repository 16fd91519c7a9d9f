"""UCI's data API, as the `ucimlrepo` package addresses it, behind a cache on disk.

`ucimlrepo` has no cache and no timeout, so regx takes its address and its rule (variables carry the roles ID, Feature,
Target, Other) and keeps the two answers as they came: `DATA_DIR/uci/<id>/dataset.json` and `data.csv`, beside them
`source.json` (URL, sha256, time). A download is parsed before it is stored, and stored under a temporary name first.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlparse

from regx.errors import RunFailed, UserError

if TYPE_CHECKING:
    import pandas as pd

TIMEOUT_S = 30.0  # for each wait on the server
DEADLINE_S = 600.0  # for one file
ROLES = ("ID", "Feature", "Target", "Other")
METADATA, CELLS, SOURCE = "dataset.json", "data.csv", "source.json"


@dataclass(frozen=True, eq=False)
class Answer:
    """What UCI says about one dataset.

    Attributes:
        uci_id: number.
        name: UCI's name.
        frame: features and targets, in the order of the CSV's columns.
        targets: columns of the role Target; may be empty.
        tasks: UCI's words (`Classification`, `Regression`, ...).
        unused: columns of the other roles, or that UCI calls an index.
    """

    uci_id: int
    name: str
    frame: pd.DataFrame
    targets: tuple[str, ...]
    tasks: tuple[str, ...]
    unused: tuple[str, ...]


class _Unusable(Exception):
    """Why an answer cannot be used, in words that end a sentence."""


class _NotFound(_Unusable):
    """UCI does not know the dataset."""


def get(uci_id: int, data_dir: Path, *, label: str, hint: str = "") -> tuple[Answer, Path]:
    """Reads a dataset from the cache, downloading it first if it is not there.

    Args:
        uci_id: UCI's number.
        data_dir: data folder.
        label: what the user typed, for messages.
        hint: a further way to get the data, for messages.

    Returns:
        The dataset and its cache folder.

    Raises:
        RunFailed: the cache is corrupt, or there is none and UCI's answer cannot be had or used.
    """
    folder = folder_of(uci_id, data_dir)
    if not _is_cached(folder):
        _download(uci_id, folder, label, hint)
    return _read(folder, label), folder


def folder_of(uci_id: int, data_dir: Path) -> Path:
    """Where the two files of a dataset lie."""
    return data_dir / "uci" / str(uci_id)


def find(name: str, data_dir: Path, *, label: str) -> int:
    """UCI's number of the dataset called `name`, whatever the case; the cache is asked first.

    UCI matches parts of names and returns one of the matches, so an answer counts only if its name is equal.

    Raises:
        UserError: no dataset has that name, or several contain it; the message lists them.
        RunFailed: UCI cannot be asked.
    """
    wanted = _plain(name)
    for uci_id, known in _cached_names(data_dir):
        if _plain(known) == wanted:
            return uci_id
    base, listing = _addresses()
    asked = name.replace("_", " ")
    try:
        answer = _metadata(_fetch(f"{base}?name={quote(asked)}"))
        candidates = [(int(answer["uci_id"]), str(answer["name"]))]
    except (KeyError, TypeError, ValueError) as error:
        raise RunFailed(f"{label}: UCI's answer lacks {error}, its API may have changed; use its number") from error
    except _NotFound:
        candidates = []
    except _Unusable as error:
        raise RunFailed(f"{label}: {error}; nothing of that name is cached in {data_dir / 'uci'}") from error
    if not any(_plain(known) == wanted for _, known in candidates):
        listed = _listed(f"{listing}?filter=python&search={quote(asked.lower())}")
        candidates += [row for row in listed if row not in candidates]
    for uci_id, known in candidates:
        if _plain(known) == wanted:
            return uci_id
    if close := [f"uci:{uci_id} ({known})" for uci_id, known in candidates if wanted in _plain(known)]:
        raise UserError(
            f"{label}: no UCI dataset has exactly that name; choose one of {', '.join(close[:10])}", "dataset"
        )
    raise UserError(f"{label}: UCI has no dataset of that name; use its number, as in uci:53", "dataset")


def _download(uci_id: int, folder: Path, label: str, hint: str) -> None:
    base, _ = _addresses()
    url = f"{base}?id={uci_id}"
    try:
        metadata = _fetch(url)
        data_url = _metadata(metadata).get("data_url")
        if not data_url:
            raise _Unusable("UCI has this dataset but its API does not serve it (no data_url)")
        if urlparse(data_url).scheme not in ("http", "https"):
            raise _Unusable(f"UCI's answer points to {data_url!r}, which is not a web address")
        cells = _fetch(data_url)
        answer = _parse(metadata, cells)
        if answer.uci_id != uci_id:
            raise _Unusable(f"UCI answered with another dataset, {answer.uci_id} ({answer.name})")
    except _Unusable as error:
        by_hand = f"save {url} as {folder / METADATA} and the file its data_url names as {folder / CELLS}"
        raise RunFailed(f"{label}: {error}; not cached in {folder} either; by hand: {hint or by_hand}") from error
    source = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        METADATA: {"url": url, "sha256": _sha256(metadata)},
        CELLS: {"url": data_url, "sha256": _sha256(cells)},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, body in ((METADATA, metadata), (CELLS, cells), (SOURCE, json.dumps(source, indent=1).encode())):
            _write(folder / name, body)
    except OSError as error:
        raise RunFailed(f"{label}: cannot write the cache folder {folder}: {error.strerror}") from error


def _is_cached(folder: Path) -> bool:
    return (folder / METADATA).is_file() and (folder / CELLS).is_file()


def _read(folder: Path, label: str) -> Answer:
    """Parses the cached files, after comparing them with the checksums of their download where there are any."""
    again = f"delete the folder {folder} and run `regx datasets fetch {label}`"
    try:
        bodies = {name: (folder / name).read_bytes() for name in (METADATA, CELLS)}
        # Files that somebody placed by hand come without source.json.
        source = json.loads((folder / SOURCE).read_bytes()) if (folder / SOURCE).is_file() else None
        expected = {name: source[name]["sha256"] for name in bodies} if source is not None else {}
    except OSError as error:
        raise RunFailed(f"{label}: cannot read the cache folder {folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunFailed(f"{label}: {folder / SOURCE} is corrupt; {again}") from error
    for name, digest in expected.items():
        if _sha256(bodies[name]) != digest:
            raise RunFailed(f"{label}: {folder / name} is corrupt, its sha256 is not that of the download; {again}")
    try:
        return _parse(bodies[METADATA], bodies[CELLS])
    except _Unusable as error:
        raise RunFailed(f"{label}: {folder / CELLS} cannot be used: {error}; {again}") from error


def _parse(metadata: bytes, cells: bytes) -> Answer:
    """The one way from UCI's two bodies to a table."""
    import pandas as pd

    about = _metadata(metadata)
    try:
        variables = [(variable["name"], variable["role"]) for variable in about["variables"]]
        uci_id, name = int(about["uci_id"]), str(about["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise _Unusable(f"UCI's answer lacks {error}, its API may have changed") from error
    for variable, role in variables:
        if role not in ROLES:
            raise _Unusable(f"UCI gives variable {variable!r} the unknown role {role!r}")
    if not cells.strip():
        raise _Unusable("UCI's data.csv is empty")
    try:
        frame = pd.read_csv(io.BytesIO(cells), na_values=["?"], skipinitialspace=True, low_memory=False)
    except ValueError as error:  # ParserError, UnicodeDecodeError
        raise _Unusable(f"UCI's data.csv is not a table: {_one_line(error)}") from error
    lacking = [variable for variable, _ in variables if variable not in frame.columns]
    if lacking:
        begins = cells[:40].decode(errors="replace").split("\n")[0].strip()
        raise _Unusable(f"UCI's data.csv lacks the variable {lacking[0]!r} (it begins {begins!r})")
    if frame.empty:
        raise _Unusable("UCI's data.csv has no rows")
    role_of = dict(variables)
    index = about.get("index_col") or ()
    used = [
        column
        for column in frame.columns
        if role_of.get(column) in ("Feature", "Target") and column not in tuple(index)
    ]
    targets = tuple(variable for variable, role in variables if role == "Target")
    return Answer(
        uci_id,
        name,
        frame.loc[:, used],
        targets,
        tuple(about.get("tasks") or ()),
        tuple(str(column) for column in frame.columns if column not in used),
    )


def _metadata(body: bytes) -> dict[str, Any]:
    """The `data` part of UCI's JSON."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        begins = body[:40].decode(errors="replace").split("\n")[0].strip()
        raise _Unusable(f"UCI's answer is not JSON (it begins {begins!r})") from error
    if not isinstance(answer, dict) or "status" not in answer:
        raise _Unusable("UCI's answer has no status, its API may have changed")
    if answer["status"] != 200:
        message = _one_line(answer.get("message") or "dataset not found")
        raise _NotFound(f"UCI says {message!r} (status {answer['status']})")
    if not isinstance(answer.get("data"), dict):
        raise _Unusable("UCI's answer has no data, its API may have changed")
    return answer["data"]


def _listed(url: str) -> list[tuple[int, str]]:
    """Numbers and names in UCI's list; empty where the list cannot be had, as it only serves messages."""
    try:
        return [(int(row["id"]), str(row["name"])) for row in json.loads(_fetch(url))["data"]]
    except (_Unusable, ValueError, KeyError, TypeError):
        return []


def _fetch(url: str) -> bytes:
    """The whole body at `url`; refuses one that is shorter than announced."""
    import http.client
    import ssl
    import urllib.error
    import urllib.request

    import certifi

    deadline = time.monotonic() + DEADLINE_S
    try:
        context = ssl.create_default_context(cafile=certifi.where())
        with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context) as response:
            chunks = []
            while chunk := response.read(1 << 16):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError
            body = b"".join(chunks)
            announced = response.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        error.close()
        kind = _NotFound if error.code == 404 else _Unusable
        raise kind(f"UCI answered HTTP {error.code} to {url}") from error
    except TimeoutError as error:
        raise _Unusable(f"no answer from {url} within {TIMEOUT_S:g} s") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _Unusable(f"no answer from {url} within {TIMEOUT_S:g} s") from error
        raise _Unusable(f"cannot reach {urlparse(url).netloc} ({_one_line(error.reason)})") from error
    except http.client.IncompleteRead as error:
        raise _Unusable(f"the download of {url} was cut short") from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise _Unusable(f"the connection to {urlparse(url).netloc} broke ({_one_line(error)})") from error
    # Reading in chunks does not raise IncompleteRead.
    if announced is not None and announced.isdigit() and len(body) < int(announced):
        raise _Unusable(f"the download of {url} was cut short after {len(body)} of {announced} bytes")
    return body


def _cached_names(data_dir: Path) -> Iterator[tuple[int, str]]:
    for file in sorted((data_dir / "uci").glob(f"*/{METADATA}")):
        try:
            yield int(file.parent.name), str(json.loads(file.read_bytes())["data"]["name"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a corrupt entry is reported when it is read, not when another one is looked for


def _addresses() -> tuple[str, str]:
    from ucimlrepo import fetch

    return fetch.API_BASE_URL, fetch.API_LIST_URL


def _write(path: Path, body: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(body)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _one_line(text: object) -> str:
    return " ".join(str(text).split()) or type(text).__name__

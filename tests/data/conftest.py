"""A server on the loopback interface that speaks UCI's wire format, and what its answers look like."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from ucimlrepo import fetch as ucimlrepo_fetch

from regx.data import uci_api

Fault = Callable[[BaseHTTPRequestHandler], None]


class Uci:
    """The server's datasets, its faults (`api`, `csv`, `list` -> what to do instead of answering), and its log."""

    def __init__(self) -> None:
        self.sets: dict[int, tuple[dict[str, Any], bytes]] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[str] = []
        self.release = threading.Event()
        self.base = ""

    def add(
        self,
        uci_id: int,
        name: str,
        roles: dict[str, str],
        csv: str,
        *,
        tasks: tuple[str, ...] = ("Classification",),
        index_col: list[str] | None = None,
    ) -> None:
        """Serves a dataset; `roles` is column -> role in the order of the answer's variables."""
        variable = {"type": "Categorical", "demographic": None, "description": None, "units": None}
        metadata = {
            "uci_id": uci_id,
            "name": name,
            "repository_url": f"https://archive.ics.uci.edu/dataset/{uci_id}/{name.lower()}",
            "data_url": f"{self.base}/static/public/{uci_id}/data.csv",
            "abstract": "Höhe\r\n\tund Breite",
            "area": "Other",
            "tasks": list(tasks),
            "characteristics": ["Multivariate"],
            "num_instances": csv.count("\n") - 1,
            "num_features": list(roles.values()).count("Feature"),
            "feature_types": ["Real"],
            "demographics": [],
            "target_col": [column for column, role in roles.items() if role == "Target"] or None,
            "index_col": index_col,
            "has_missing_values": "no",
            "missing_values_symbol": None,
            "year_of_dataset_creation": 1988,
            "last_updated": "Tue Sep 12 2023",
            "dataset_doi": "10.24432/C0",
            "creators": ["R. A. Fisher"],
            "intro_paper": None,
            "additional_info": {"summary": "A set.\r\n", "citation": None},
            "variables": [
                {"name": column, "role": role, **variable, "missing_values": "no"} for column, role in roles.items()
            ],
        }
        self.sets[uci_id] = (metadata, csv.encode())

    def answer(self, url: str) -> tuple[str, int, bytes]:
        """Which kind of request, HTTP status and body."""
        parsed = urlparse(url)
        query = {key: values[0] for key, values in parse_qs(parsed.query).items()}
        if parsed.path == "/api/datasets/list":
            rows = [{"id": uci_id, "name": metadata["name"]} for uci_id, (metadata, _) in self.sets.items()]
            found = [row for row in rows if query.get("search", "").lower() in row["name"].lower()]
            return "list", 200, json.dumps({"status": 200, "statusText": "OK", "data": found}).encode()
        if parsed.path == "/api/dataset":
            for uci_id, (metadata, _) in self.sets.items():
                if query.get("id") == str(uci_id) or (
                    "name" in query and query["name"].lower() in metadata["name"].lower()
                ):
                    return "api", 200, json.dumps({"status": 200, "statusText": "OK", "data": metadata}).encode()
            return "api", 200, json.dumps({"status": 404, "message": "No dataset\nfound"}).encode()
        uci_id = int(parsed.path.split("/")[3])
        return "csv", 200, self.sets[uci_id][1]


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, announced: int | None = None) -> None:
    """Answers with `body`, announcing `announced` bytes if that is not its length."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if announced is None else announced))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's data folder and proxy are, the tests use neither."""
    monkeypatch.delenv("REGX_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def uci(monkeypatch: pytest.MonkeyPatch) -> Iterator[Uci]:
    """The server, with `ucimlrepo` pointed at it."""
    state = Uci()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            kind, status, body = state.answer(self.path)
            if kind in state.faults:
                self.close_connection = True
                state.faults[kind](self)
            else:
                send(self, status, body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(ucimlrepo_fetch, "API_BASE_URL", f"{state.base}/api/dataset")
    monkeypatch.setattr(ucimlrepo_fetch, "API_LIST_URL", f"{state.base}/api/datasets/list")
    monkeypatch.setattr(uci_api, "TIMEOUT_S", 5.0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    state.release.set()
    server.shutdown()
    server.server_close()
    thread.join()

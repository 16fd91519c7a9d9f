"""As much of a W&B server, on loopback, as the real wandb 0.31 client needs; it remembers everything that it was sent.

It knows runs (new, resumed, synced), sweeps whose brain walks the grid of `values`, agents, and what `wandb.Api()`
reads.
"""

import gzip
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

KEY = "0123456789abcdef" * 2 + "fedcba98"
ENTITY = "lab"


@dataclass
class Run:
    """What the server knows of a run."""

    id: str
    project: str
    display_name: str = ""
    sweep: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    job_type: str | None = None
    state: str = "running"
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    upserts: int = 0

    @property
    def values(self) -> dict[str, Any]:
        """The configuration, without W&B's own keys."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}

    def node(self) -> dict[str, Any]:
        """The run as GraphQL gives it."""
        return {
            "id": f"storage-{self.id}",
            "name": self.id,
            "displayName": self.display_name or self.id,
            "description": "",
            "notes": "",
            "tags": self.tags,
            "sweepName": self.sweep,
            "state": self.state,
            "config": json.dumps(self.config),
            "group": self.group,
            "jobType": self.job_type,
            "commit": None,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in self.history[-1:]]),
            "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": {}}),
            "projectId": "1",
            "user": {"name": "u", "username": "u"},
            "project": {"id": "p", "name": self.project, "entity": {"id": "e", "name": ENTITY}},
        }


@dataclass
class Sweep:
    """A sweep, and the points of its grid that no agent has yet."""

    id: str
    project: str
    config: dict[str, Any]
    state: str = "RUNNING"
    points: list[dict[str, Any]] = field(default_factory=list)

    def node(self, runs: list[Run]) -> dict[str, Any]:
        """The sweep as GraphQL gives it."""
        return {
            "id": f"storage-{self.id}",
            "name": self.id,
            "displayName": None,
            "method": self.config.get("method"),
            "state": self.state,
            "description": None,
            "config": yaml.safe_dump(self.config),
            "bestLoss": None,
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "earlyStopJobRunning": False,
            "controller": None,
            "scheduler": None,
            "runCount": len(runs),
            "runCountExpected": None,
            "runs": {"edges": [{"node": run.node()} for run in runs]},
        }


def grid(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Every point of the grid; of nested parameters the values are nested too."""
    choices = [
        grid(spec["parameters"]) if "parameters" in spec else spec.get("values") or [spec.get("value")]
        for spec in parameters.values()
    ]
    return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*choices)]


class Server(ThreadingHTTPServer):
    """The server. Its fields may be read at any time, and `status`, `dies_after` and `stop_runs` set.

    Attributes:
        status: HTTP status of every answer; not 200 is an error.
        dies_after: rows of a run's history that are taken; further ones and a run's end are errors. None takes all.
        stop_runs: ids of runs that their agents are told to stop.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.status = 200
        self.dies_after: int | None = None
        self.stop_runs: set[str] = set()
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.agents: dict[str, str] = {}
        self.operations: list[str] = []
        self.lock = threading.RLock()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a client that knows this server and nothing else; `home` is made its home."""
        home.mkdir(parents=True, exist_ok=True)
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_CONFIG_DIR": str(home / "config"),
            "WANDB_CACHE_DIR": str(home / "cache"),
            "HOME": str(home),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stays quiet when a client hangs up."""

    def run_of(self, id: str, project: str) -> Run:
        return self.runs.setdefault(id, Run(id, project))

    def of_sweep(self, sweep: str) -> list[Run]:
        return [run for run in self.runs.values() if run.sweep == sweep]

    # What GraphQL operations do, by their names.

    def viewer(self, values: dict[str, Any]) -> dict[str, Any]:
        """Viewer and all of its relatives."""
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        user = {"id": "u", "entity": ENTITY, "username": "u", "name": "u", "email": "", "admin": False, "apiKeys": None}
        return {"viewer": user | {"flags": "{}", "teams": teams}}

    def upsert_bucket(self, values: dict[str, Any]) -> dict[str, Any]:
        inserted = values["name"] not in self.runs
        run = self.run_of(values["name"], values["project"])
        run.upserts += 1
        run.state = "running"
        run.display_name = values.get("displayName") or run.display_name
        run.sweep = values.get("sweep") or run.sweep
        run.group = values.get("groupName") or run.group
        run.job_type = values.get("jobType") or run.job_type
        run.tags = values.get("tags") or run.tags
        run.config |= json.loads(values.get("config") or "{}")
        return {"upsertBucket": {"bucket": run.node(), "inserted": inserted}}

    def run_resume_status(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(values["name"])
        entity = {"id": "e", "name": ENTITY}
        return {"model": {"id": "p", "name": values["project"], "entity": entity, "bucket": run and run.node()}}

    def create_run_files(self, values: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/put/{values['run']}/{name}", "uploadHeaders": []}
            for name in values["files"]
        ]
        return {"createRunFiles": {"runID": f"storage-{values['run']}", "uploadHeaders": [], "files": files}}

    def upsert_sweep(self, values: dict[str, Any]) -> dict[str, Any]:
        project = values.get("projectName") or "uncategorized"
        known = next((sweep for sweep in self.sweeps.values() if f"storage-{sweep.id}" == values.get("id")), None)
        if known is None:
            config = yaml.safe_load(values["config"])
            known = Sweep(f"sweep{len(self.sweeps)}", project, config, points=grid(config["parameters"]))
            self.sweeps[known.id] = known
        known.state = values.get("state") or known.state
        where = {"id": "p", "name": known.project, "entity": {"id": "e", "name": values.get("entityName") or ENTITY}}
        return {"upsertSweep": {"sweep": {"name": known.id, "project": where}, "configValidationWarnings": []}}

    def sweep_with_runs(self, values: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps.get(values.get("sweep") or values.get("name") or "")
        return {"project": {"sweep": sweep and sweep.node(self.of_sweep(sweep.id))}}

    def create_agent(self, values: dict[str, Any]) -> dict[str, Any]:
        agent = f"agent{len(self.agents)}"
        self.agents[agent] = values["sweep"]
        return {"createAgent": {"agent": {"id": agent}}}

    def heartbeat(self, values: dict[str, Any]) -> dict[str, Any]:
        running = json.loads(values["runState"])
        commands = self.commands(self.sweeps[self.agents[values["id"]]], running)
        return {"agentHeartbeat": {"agent": {"id": values["id"]}, "commands": json.dumps(commands)}}

    def commands(self, sweep: Sweep, running: dict[str, bool]) -> list[dict[str, Any]]:
        """What an agent has to do next: it has one run at a time."""
        if sweep.state in ("FINISHED", "CANCELED"):
            return [{"type": "exit"}] if sweep.state == "CANCELED" or not running else []
        if stopped := self.stop_runs & set(running):
            return [{"type": "stop", "run_id": run} for run in stopped]
        if running or sweep.state == "PAUSED":
            return []
        if not sweep.points:
            return [{"type": "exit"}]
        point = sweep.points.pop(0)
        run = self.run_of(f"{sweep.id}-{len(self.of_sweep(sweep.id))}", sweep.project)
        run.sweep = sweep.id
        args = {key: {"value": value} for key, value in point.items()}
        return [{"type": "run", "run_id": run.id, "args": args, "program": sweep.config.get("program")}]

    def list_runs(self, values: dict[str, Any]) -> dict[str, Any]:
        found = [run for run in self.runs.values() if run.project == values["project"]]
        if sweep := re.search(r'"sweep": "(\w+)"', values.get("filters") or ""):
            found = [run for run in found if run.sweep == sweep[1]]
        first = int(values.get("cursor") or 0)
        page = found[first : first + values["perPage"]]
        last = first + len(page)
        edges = [{"node": run.node(), "cursor": str(first + number + 1)} for number, run in enumerate(page)]
        info = {"endCursor": str(last), "hasNextPage": last < len(found)}
        return {
            "project": {
                "internalId": "1",
                "runCount": len(found),
                "readOnly": False,
                "runs": {"edges": edges, "pageInfo": info},
            }
        }

    def history_keys(self, values: dict[str, Any]) -> dict[str, Any]:
        steps = [row["_step"] for row in self.runs[values["name"]].history]
        return {"project": {"run": {"historyKeys": {"sets": [], "keys": {}, "lastStep": max(steps, default=-1)}}}}

    def parquet_history(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def history_page(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[values.get("run") or values["name"]]
        low, high = values.get("minStep", 0), values.get("maxStep", float("inf"))
        return {"project": {"run": {"history": [json.dumps(r) for r in run.history if low <= r["_step"] < high]}}}

    def get_run(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(values["name"])
        return {"project": {"run": run and run.node()}}

    def run_files(self, values: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {"id": name, "name": name, "url": "", "directUrl": "", "sizeBytes": len(data), "mimetype": "", "md5": ""}
            for name, data in self.runs[values["name"]].files.items()
            if name.startswith((values.get("pattern") or "").removesuffix("%"))
        ]
        edges = [{"node": node | {"updatedAt": None}, "cursor": ""} for node in nodes]
        files = {"edges": edges, "pageInfo": {"endCursor": "", "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(nodes), "files": files}}}

    def stream(self, id: str, project: str, sent: dict[str, Any]) -> None:
        """Lines of a run's files, each at its place."""
        run = self.run_of(id, project)
        files = sent.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            rows = [json.loads(line) for line in history["content"]]
            run.history[history["offset"] : history["offset"] + len(rows)] = rows
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]
            run.state = "failed" if run.exit_code else "finished"


OPERATIONS = {
    "UpsertBucket": Server.upsert_bucket,
    "RunResumeStatus": Server.run_resume_status,
    "CreateRunFiles": Server.create_run_files,
    "UpsertSweep": Server.upsert_sweep,
    "SweepWithRuns": Server.sweep_with_runs,
    "GetSweep": Server.sweep_with_runs,
    "CreateAgent": Server.create_agent,
    "Heartbeat": Server.heartbeat,
    "Run": Server.get_run,
    "RunFiles": Server.run_files,
    "Runs": Server.list_runs,
    "RunHistoryKeys": Server.history_keys,
    "RunParquetHistory": Server.parquet_history,
    "HistoryPage": Server.history_page,
    "RunFullHistory": Server.history_page,
    "Viewer": Server.viewer,
    "GetViewer": Server.viewer,
    "GetDefaultEntity": Server.viewer,
    "ServerFeaturesQuery": lambda server, values: {"serverInfo": {"features": []}},
    "RunStoppedStatus": lambda server, values: {"project": {"run": {"stopped": False}}},
}


class Answer(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    @property
    def wandb(self) -> Server:
        assert isinstance(self.server, Server)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_PUT(self) -> None:
        _, _, run, name = unquote(self.path).split("/", 3)
        self.wandb.runs[run].files[name] = self.body()
        self.reply({})

    def do_POST(self) -> None:
        body = self.body()
        if self.wandb.status != 200:
            self.reply({"errors": [{"message": "no"}]}, self.wandb.status)
        elif self.path == "/graphql":
            self.graphql(json.loads(body))
        elif self.path.endswith("/file_stream"):
            self.file_stream(json.loads(body))
        else:
            self.reply({})

    def graphql(self, request: dict[str, Any]) -> None:
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name = found[1] if found else ""
        with self.wandb.lock:
            self.wandb.operations.append(name)
            if name not in OPERATIONS:
                return self.reply({"errors": [{"message": f"this server has no {name}"}]}, 400)
            self.reply({"data": OPERATIONS[name](self.wandb, request.get("variables") or {})})

    def file_stream(self, sent: dict[str, Any]) -> None:
        _, _, _, project, run, _ = unquote(self.path).split("/")
        with self.wandb.lock:
            history = (sent.get("files") or {}).get("wandb-history.jsonl")
            if self.wandb.dies_after is not None and (history or sent.get("complete")):
                left = self.wandb.dies_after - len(self.wandb.run_of(run, project).history)
                if history and left > 0:  # what arrived before the end
                    history["content"] = history["content"][:left]
                    self.wandb.stream(run, project, {"files": {"wandb-history.jsonl": history}})
                return self.reply({}, 500)
            self.wandb.stream(run, project, sent)
        self.reply({"exitcode": None, "limits": {}})

    def body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def reply(self, answer: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served() -> Iterator[Server]:
    """A server that runs while the block does."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()

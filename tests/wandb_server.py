"""A W&B server in miniature: what W&B's client asks while runs and artifacts are recorded, answered from memory."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Facts = Mapping[str, Any]
ENTITY = "us"
PROJECT = {"id": "p", "internalId": "1", "name": "everclip", "entity": {"id": "e", "name": ENTITY}}


@dataclass
class StoredRun:
    """A run as the server holds it.

    Attributes:
        given: what it was told of the run, the last of each.
        files: lines by file name.
        exit_code: None until the run has ended.
    """

    given: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None

    def points(self, axis: str) -> list[Any]:
        """The values of an axis, in the order of their arrival."""
        rows = map(json.loads, self.files.get("wandb-history.jsonl", []))
        return [row[axis] for row in rows if axis in row]

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.files.get("wandb-summary.json", ["{}"])[-1]))


class WandbServer:
    """Listens at `url` until it is closed.

    Attributes:
        runs: by id.
        artifacts: by id, in the order of their creation: what was asked for, and `used_by`, the ids of runs.
        outage: status that everything is answered with, 0 for no answer at all; None: all is well.
    """

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.outage: int | None = None
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._answers: dict[str, Callable[[Facts], Any]] = {
            "Viewer": self._viewer,
            "RunResumeStatus": lambda given: {"model": PROJECT | {"bucket": self._bucket(given["name"])}},
            "UpsertBucket": self._upsert,
            "CreateRunFiles": lambda given: {
                "createRunFiles": {
                    "runID": given["run"],
                    "uploadHeaders": [],
                    "files": [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in given["files"]],
                }
            },
            "ArtifactType": lambda given: {"project": {"artifact": None}},
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": lambda given: {
                "createArtifactManifest": {"artifactManifest": {"id": "m", "file": {"id": "f"} | self._place(given)}}
            },
            "CreateArtifactFiles": lambda given: {
                "createArtifactFiles": {
                    "files": {"edges": [{"node": self._place(file)} for file in given["input"]["artifactFiles"]]}
                }
            },
            "CommitArtifact": lambda given: {
                "commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "0" * 32}}
            },
            "ArtifactByID": lambda given: {"artifact": self._artifact(given["id"])},
            "ArtifactMembershipByName": lambda given: {"project": PROJECT | self._member(given["name"])},
            "UseArtifact": self._use_artifact,
        }
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """What a request is answered with; files that are sent are thrown away."""
        with self._lock:
            if path == "/graphql":
                question = json.loads(body)
                name = re.findall(r"(?:query|mutation)\s+(\w+)", question["query"])[0]
                reply = self._answers.get(name, lambda given: {})
                return {"data": reply(question.get("variables") or {})}
            if path.endswith("/file_stream"):
                self._stream(self.runs[path.split("/")[-2]], json.loads(body))
            return {}

    def _stream(self, run: StoredRun, update: Facts) -> None:
        for name, chunk in (update.get("files") or {}).items():
            run.files.setdefault(name, [])[chunk["offset"] :] = chunk["content"]
        if update.get("complete"):
            run.exit_code = update["exitcode"]

    def _viewer(self, given: Facts) -> Any:
        return {"viewer": {"id": "v", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}

    def _upsert(self, given: Facts) -> Any:
        inserted = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], StoredRun())
        run.given |= {key: value for key, value in given.items() if value is not None}
        return {"upsertBucket": {"bucket": self._bucket(given["name"]), "inserted": inserted}}

    def _bucket(self, name: str) -> Any:
        if (run := self.runs.get(name)) is None:
            return None
        lines = {kind: run.files.get(f"wandb-{kind}.jsonl", []) for kind in ("history", "events")}
        return {
            **{key: run.given.get(key) for key in ("displayName", "config", "tags", "notes")},
            **{f"{kind}LineCount": len(kept) for kind, kept in lines.items()},
            **{f"{kind}Tail": json.dumps(kept[-1:]) for kind, kept in lines.items()},
            "id": name,
            "name": name,
            "project": PROJECT,
            "logLineCount": 0,
            "summaryMetrics": json.dumps(run.summary),
            "wandbConfig": '{"t": 1}',
        }

    def _create_artifact(self, given: Facts) -> Any:
        name = f"artifact-{len(self.artifacts)}"
        self.artifacts[name] = given["input"] | {"used_by": []}
        created = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": created}}

    def _place(self, file: Facts) -> dict[str, Any]:
        owner, name = {"id": file["artifactID"]}, file["name"]
        place = {"name": name, "displayName": name, "storagePath": name, "artifact": owner}
        return place | {"uploadUrl": f"{self.url}/{name}", "uploadHeaders": [], "uploadMultipartUrls": None}

    def _artifact(self, name: str) -> Any:
        given = self.artifacts[name]
        return {
            **{key: given[key] for key in ("description", "metadata", "digest")},
            **dict.fromkeys(("versionIndex", "ttlDurationSeconds", "size", "fileCount"), 0),
            **dict.fromkeys(("historyStep", "commitHash", "updatedAt")),
            "id": name,
            "artifactSequence": {"name": given["artifactCollectionName"], "project": PROJECT},
            "artifactType": {"name": given["artifactTypeName"]},
            "ttlIsInherited": True,
            "tags": [],
            "aliases": [],
            "state": "COMMITTED",
            "createdAt": "2026-01-01T00:00:00Z",
        }

    def _member(self, name: str) -> Any:
        """The last artifact of a collection, whatever its alias."""
        collection = name.partition(":")[0]
        ids = [key for key, given in self.artifacts.items() if given["artifactCollectionName"] == collection]
        if not ids:
            return {"artifactCollectionMembership": None}
        found = self._artifact(ids[-1])
        kind = {"__typename": "ArtifactSequence", "name": collection, "project": PROJECT}
        member = {"__typename": "ArtifactCollectionMembership", "id": "c", "versionIndex": 0, "aliases": []}
        of_member = {"artifactCollection": kind, "artifact": found, "createdAt": found["createdAt"]}
        return {"artifactCollectionMembership": member | of_member}

    def _use_artifact(self, given: Facts) -> Any:
        asked = given.get("input") or given
        self.artifacts[asked["artifactID"]]["used_by"].append(asked["runName"])
        return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may go at any time."""


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            length = self.headers.get("Content-Length")
            body = self.rfile.read(int(length)) if length else b"".join(self.chunks())
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if server.outage == 0:
                server.closed.wait()
            if server.outage is not None:
                return self.send_error(server.outage or 503)
            content = json.dumps(server.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return None

        do_GET = do_POST = do_PUT = respond  # noqa: N815 (names of the base class)

        def chunks(self) -> Iterator[bytes]:
            while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
                yield self.rfile.read(size)
                self.rfile.readline()

        def log_message(self, *values: object) -> None:
            pass

    return Handler

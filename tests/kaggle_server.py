"""A small Kaggle on loopback for the tests: it answers the real client, and fails as it is told to.

with serve() as kaggle:
    kaggle.archive = ...
    call("prepare", folder, extra=kaggle.environment(folder))
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "KGAT_f3w-t0ken-that-nobody-may-see"
HOOK = """
import kagglesdk.kaggle_env as env
env._env_to_endpoint[env.KaggleEnv.PROD] = "http://127.0.0.1:{port}"
"""


class Kaggle(ThreadingHTTPServer):
    """What it has, what it is to do wrong, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archive, self.etag = b"", '"one"'
        self.length: int | None = None  # what is said of the archive's size, where that is not the truth
        self.cuts: list[int] = []  # each of the next downloads breaks after so many bytes
        self.failures: dict[str, list[tuple[int, dict[str, str], str]]] = {}  # by method: the next answers
        self.submissions: list[dict[str, Any]] = []
        self.scores: list[str] = []  # of the next submissions
        self.deaf = 0  # submissions that are taken without an answer
        self.pending = 0  # looks at the list before a submission has its score
        self.uploads: list[bytes] = []
        self.kernels: list[dict[str, Any]] = []  # notebooks that were pushed
        self.asked: list[str] = []  # methods and paths, in order
        self.ranges: list[str] = []  # of the downloads, "" for a whole one
        self.sent = 0  # bytes of the archive

    def environment(self, folder: Path, token: str = TOKEN) -> dict[str, str]:
        """What points the real client of another process here, with a home of its own."""
        hook = folder / "hook"
        hook.mkdir(exist_ok=True)
        (hook / "sitecustomize.py").write_text(HOOK.format(port=self.server_port))
        home = {"HOME": str(hook), "KAGGLE_CONFIG_DIR": str(hook / "kaggle"), "no_proxy": "127.0.0.1"}
        # asked to be talkative, the client prints its requests with their headers
        return {"PYTHONPATH": str(hook), "VERBOSE": "1", **home} | ({"KAGGLE_API_TOKEN": token} if token else {})


@contextmanager
def serve() -> Iterator[Kaggle]:
    with Kaggle() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Kaggle

    def do_POST(self) -> None:
        values = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = self.path.rpartition("/")[2]
        self.server.asked.append(method)
        if self.server.failures.get(method):
            code, headers, message = self.server.failures[method].pop(0)
            self.answer(code, {"code": code, "message": message}, headers)
        elif method == "IntrospectToken":
            self.answer(200, {"active": values["token"] == TOKEN, "username": "somebody"})
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(401, {"code": 401, "message": f"no such token: {self.headers['Authorization']}"})
        elif method in ("DownloadDataFiles", "DownloadDataset"):
            self.answer(302, {}, {"Location": f"{self.base()}/files/archive.zip?signature=s1gned"})
        else:
            values = getattr(self, method)(values)
            if method == "CreateSubmission" and self.server.deaf:
                self.server.deaf -= 1
                self.close_connection = True
            else:
                self.answer(200, values)

    def StartSubmissionUpload(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"token": "blob", "createUrl": f"{self.base()}/upload"}

    def CreateSubmission(self, values: dict[str, Any]) -> dict[str, Any]:
        ref = 1000 + len(self.server.submissions)
        one = {"ref": ref, "description": values["submissionDescription"], "status": "PENDING", "fileName": "x.csv"}
        self.server.submissions.insert(0, one)
        return {"message": "Successfully submitted", "ref": ref}

    def ListSubmissions(self, values: dict[str, Any]) -> dict[str, Any]:
        for one in self.server.submissions:
            if one["status"] == "PENDING" and self.server.pending == 0 and self.server.scores:
                score = self.server.scores.pop(0)
                one |= {"status": "COMPLETE", "publicScore": score} if score else {"status": "ERROR"}
        self.server.pending = max(0, self.server.pending - 1)
        return {"submissions": self.server.submissions}

    def SaveKernel(self, values: dict[str, Any]) -> dict[str, Any]:
        self.server.kernels.append(values)
        return {"ref": values["slug"], "url": self.base(), "versionNumber": 1}

    def do_PUT(self) -> None:
        self.server.asked.append("upload")
        self.server.uploads.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, {})

    def do_GET(self) -> None:
        """The archive, or the rest of it, as Google's storage sends it."""
        server, start, code = self.server, 0, 200
        server.ranges.append(self.headers.get("Range", ""))
        if self.headers.get("Range") and self.headers.get("If-Range") == server.etag:
            start, code = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
        body = server.archive[start:]
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if server.length is None else server.length))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", server.etag)
        self.end_headers()
        # a resuming client asks for the whole first, reads its header, and then asks for the rest
        resuming = code == 200 and server.ranges[-1] == "" and len(server.ranges) > 1
        if server.cuts and not resuming:
            body = body[: server.cuts.pop(0)]
            self.close_connection = True
        try:
            self.wfile.write(body)
        except ConnectionError:
            return
        server.sent += 0 if resuming else len(body)

    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, code: int, values: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(values).encode()
        self.send_response(code)
        fixed = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass

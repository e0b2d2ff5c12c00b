"""The two servers that are compared: MLflow's own, started here, and Lapis, as
`lapis connect` names it."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import requests


@dataclasses.dataclass
class Answer:
    status: int
    kind: str  # media type
    body: object  # decoded JSON, else text, else bytes

    @property
    def ok(self):
        return self.status < 300


class Server:
    """An MLflow server at an address."""

    def __init__(self, name, url, token=None):
        self.name, self.url = name, url.rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = os.environ.get("REQUESTS_CA_BUNDLE", True)
        if token:
            self.session.headers["Authorization"] = "Bearer " + token

    def send(self, method, path, query, body, headers):
        try:
            r = self.session.request(
                method, self.url + path, params=query, data=body, headers=headers, timeout=120, allow_redirects=False
            )
        except requests.RequestException as e:
            return Answer(0, "", f"{self.name} gave no answer: {e}")
        kind = r.headers.get("Content-Type", "").partition(";")[0]
        if kind == "application/json":
            try:
                return Answer(r.status_code, kind, json.loads(r.content))
            except ValueError:
                pass
        try:
            return Answer(r.status_code, kind, r.content.decode())
        except UnicodeDecodeError:
            return Answer(r.status_code, kind, r.content)


def lapis():
    """The server that the environment names."""
    return Server("lapis", os.environ["MLFLOW_TRACKING_URI"], os.environ.get("MLFLOW_TRACKING_TOKEN"))


class Reference(Server):
    """`mlflow server` over SQLite in a folder, with proxied artefacts."""

    def __init__(self, folder, *settings):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        super().__init__("mlflow", f"http://127.0.0.1:{port}")
        env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        env["MLFLOW_DISABLE_TELEMETRY"] = "true"
        env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # its jobs are of the AI gateway
        self.log = open(folder / "mlflow.log", "wb")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"), *settings,
            ],
            stdout=self.log, stderr=self.log, env=env, cwd=folder, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 300
        while True:
            try:
                if self.session.get(self.url + "/version", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise RuntimeError((folder / "mlflow.log").read_text()[-2000:])
            time.sleep(0.2)

    def close(self):
        # The server is a small family of processes: a session of their own.
        try:
            os.killpg(self.process.pid, 15)
            self.process.wait(20)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        self.log.close()

"""The server is killed at random moments while jobs run, upload and log.

What was acknowledged must be there afterwards, every job must have ended once,
and none may have run twice. LAPIS_CRASHES is how often (20), LAPIS_SEED what
the moments are drawn from; a failing run prints both and can be repeated.
"""

import collections
import json
import os
import random
import threading
import time
import urllib.parse

import pytest
import requests
from conftest import ENDED, PLAIN, REST, Server

CRASHES = int(os.environ.get("LAPIS_CRASHES", "20"))
SEED = int(os.environ.get("LAPIS_SEED") or random.randrange(1 << 32))

# What each job does: it leaves a line in a file outside to show that it ran,
# logs metrics and prints lines of its own; a client that knows what the server
# is (MLFLOW_TRACKING_URI) tries again until it is answered.
SCRIPT = r"""
import json, os, sys, time, urllib.request
name = sys.argv[1]
with open(sys.argv[2], "a") as ran:
    ran.write(name + "\n")
uri, run = os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_RUN_ID"]
def log(step):
    body = json.dumps({"run_id": run, "metrics": [{"key": "m", "value": step * 1.5, "step": step, "timestamp": 1000 + step}]}).encode()
    request = urllib.request.Request(uri + "/api/2.0/mlflow/runs/log-batch", body,
        {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            return opener.open(request, timeout=10).read()
        except urllib.error.HTTPError as err:
            if err.code < 500 and err.code != 429:
                raise
        except OSError:
            pass
        time.sleep(0.05)
for step in range(8):
    log(step)
    print("line", name, step, flush=True)
    time.sleep(0.1)
os.makedirs("outputs", exist_ok=True)
with open("outputs/result.txt", "w") as f:
    f.write(name)
sys.exit(3 if name.endswith("7") else 0)
"""


class Client:
    """Writes until it is told to stop, and remembers what was acknowledged."""

    def __init__(self, server, folder):
        self.server = server
        self.environ = server.environ()
        self.folder = folder
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.jobs, self.resources, self.blobs, self.metrics = set(), {}, {}, collections.defaultdict(dict)
        self.asked = set()
        self.refusals = []
        self.rest = REST(self.environ)
        self.prepare()

    def prepare(self):
        (self.folder / "run.py").write_text(SCRIPT)
        reply = self.rest("PUT", "environments/plain/versions/1", json={"properties": {"image": PLAIN}})
        assert reply.status_code == 201, reply.text
        self.environment = reply.json()["id"]
        store = self.rest("GET", "datastores/workspaceblobstore").json()["properties"]
        self.container = store["containerName"]
        self.sas = self.rest("POST", "datastores/workspaceblobstore/listSecrets", json={}).json()["sasToken"]

    def send(self, call, *args, **settings):
        """A request; None when the server was not there, or went away."""
        try:
            reply = call(*args, timeout=30, **settings)
        except requests.RequestException:
            time.sleep(0.05)
            return None
        if reply.status_code >= 500:
            self.refusals.append((args, reply.status_code, reply.text[:300]))
            return None
        return reply

    def submit(self, random):
        name = f"job{len(self.asked)}-{random.randrange(10)}"
        self.asked.add(name)
        body = {"properties": {
            "jobType": "Command", "experimentName": "crash", "environmentId": self.environment,
            "command": f"python {self.folder}/run.py {name} {self.folder}/ran.txt",
        }}
        rest = REST.__call__
        reply = self.send(rest, self.rest, "PUT", f"jobs/{name}", json=body)
        if reply is not None:
            assert reply.status_code in (200, 201), reply.text
            self.jobs.add(name)

    def put(self, random):
        name, value = f"data{random.randrange(40)}", random.random()
        version = str(random.randrange(1 << 40))
        body = {"properties": {"dataType": "uri_folder", "dataUri": f"azureml://datastores/workspaceblobstore/paths/{version}/", "tags": {"v": str(value)}}}
        reply = self.send(REST.__call__, self.rest, "PUT", f"data/{name}/versions/{version}", json=body)
        if reply is not None:
            assert reply.status_code == 201, reply.text
            self.resources[f"data/{name}/versions/{version}"] = str(value)

    def upload(self, random):
        name = f"crash/{random.randrange(1 << 40)}"
        body = random.randbytes(random.choice([0, 10, 5_000, 400_000]))
        url = f"{self.rest.base}/{self.container}/{name}?{self.sas}"
        headers = {"x-ms-version": "2021-12-02", "x-ms-blob-type": "BlockBlob"}
        if len(body) > 100_000:  # as blocks
            ids = ["QUFB", "QUFC"]
            for block, part in zip(ids, (body[:200_000], body[200_000:])):
                reply = self.send(self.rest.session.put, f"{url}&comp=block&blockid={urllib.parse.quote(block)}", data=part, headers=headers)
                if reply is None:
                    return
                assert reply.status_code == 201, reply.text
            xml = "<BlockList>" + "".join(f"<Latest>{b}</Latest>" for b in ids) + "</BlockList>"
            reply = self.send(self.rest.session.put, f"{url}&comp=blocklist", data=xml, headers=headers)
        else:
            reply = self.send(self.rest.session.put, url, data=body, headers=headers)
        if reply is not None:
            assert reply.status_code == 201, reply.text
            self.blobs[name] = body

    def log(self, random):
        """Metrics of a run outside of any job."""
        root = f"/mlflow/v1.0{self.rest.scope}/api/2.0/mlflow"
        if not getattr(self, "run", None):
            reply = self.send(REST.__call__, self.rest, "POST", f"{root}/runs/create", version=None, json={"experiment_id": "0", "start_time": 1})
            if reply is None:
                return
            assert reply.status_code == 200, reply.text
            self.run = reply.json()["run"]["info"]["run_id"]
        step = sum(map(len, self.metrics.values()))
        key, value = f"k{random.randrange(3)}", random.random()
        body = {"run_id": self.run, "metrics": [{"key": key, "value": value, "step": step, "timestamp": step}]}
        reply = self.send(REST.__call__, self.rest, "POST", f"{root}/runs/log-batch", version=None, json=body)
        if reply is not None:
            assert reply.status_code == 200, reply.text
            self.metrics[key][step] = value

    def work(self, act, seed, pause):
        draw = random.Random(seed)
        try:
            while not self.stop.is_set():
                act(draw)
                self.stop.wait(pause)
        except BaseException as err:
            self.failed = err
            raise


def history(rest, run, key):
    root = f"/mlflow/v1.0{rest.scope}/api/2.0/mlflow"
    found, token = [], ""
    while True:
        reply = rest("GET", f"{root}/metrics/get-history", version=None,
                     params={"run_id": run, "metric_key": key, "max_results": 1000, **({"page_token": token} if token else {})})
        assert reply.status_code == 200, reply.text
        body = reply.json()
        found += [(int(m["step"]), m["value"]) for m in body.get("metrics", [])]
        token = body.get("next_page_token")
        if not token:
            return found


@pytest.mark.timeout(120 + 30 * CRASHES)
def test_nothing_that_was_acknowledged_is_lost_and_no_job_runs_twice(tmp_path, capsys):
    draw = random.Random(SEED)
    server = Server(tmp_path / "data", slots=4)
    try:
        client = Client(server, tmp_path)
        client.failed = None
        threads = [
            threading.Thread(target=client.work, args=(act, draw.random(), pause), daemon=True)
            for act, pause in ((client.submit, 0.25), (client.put, 0.01), (client.upload, 0.02), (client.log, 0.01))
        ]
        for t in threads:
            t.start()
        begin = time.monotonic()
        for _ in range(CRASHES):
            # From "barely begun to start" to "well under way".
            time.sleep(draw.choice([0, 0.1, 1, 3, 6]) * draw.random())
            server.kill()
            server.start()
            assert client.failed is None, client.failed
        took = time.monotonic() - begin
        client.stop.set()
        for t in threads:
            t.join(60)
        assert client.failed is None, client.failed
        check(client, server, tmp_path)
        with capsys.disabled():
            print(
                f"\n{CRASHES} kills in {took:.0f} s, seed {SEED}: {len(client.jobs)} jobs, {len(client.resources)} resources, "
                f"{len(client.blobs)} blobs, {sum(map(len, client.metrics.values()))} metrics acknowledged"
            )
    except BaseException:
        print(f"repeat with LAPIS_CRASHES={CRASHES} LAPIS_SEED={SEED}")
        raise
    finally:
        server.stop()


def check(client, server, folder):
    rest = client.rest
    assert client.jobs and client.resources and client.blobs and client.metrics, "the clients did nothing"

    for path, value in client.resources.items():
        reply = rest("GET", path)
        assert reply.status_code == 200 and reply.json()["properties"]["tags"] == {"v": value}, (path, reply.text)

    for name, body in client.blobs.items():
        reply = rest.session.get(f"{rest.base}/{client.container}/{name}?{client.sas}", headers={"x-ms-version": "2021-12-02"})
        assert reply.status_code == 200 and reply.content == body, name

    for key, points in client.metrics.items():
        # A step whose reply was lost may be there beside its repetition.
        found = set(history(rest, client.run, key))
        assert points.items() <= found, key

    # A job whose reply was lost may be there or not; one that is there must be whole.
    deadline = time.monotonic() + 60 + len(client.asked)
    there = {}
    for name in sorted(client.asked):
        while True:
            reply = rest("GET", f"jobs/{name}")
            if reply.status_code == 404:
                assert name not in client.jobs, f"{name} was acknowledged and is gone"
                break
            status = reply.json()["properties"]["status"]
            if status in ENDED:
                there[name] = status
                break
            assert time.monotonic() < deadline, f"{name} is still {status}: {json.dumps(reply.json()['properties'].get('properties'))}"
            time.sleep(0.1)

    ran = collections.Counter((folder / "ran.txt").read_text().split())
    assert {n: c for n, c in ran.items() if c > 1} == {}, "these jobs ran twice"
    assert set(ran) == set(there)

    artifacts = rest("GET", "datastores/workspaceartifactstore").json()["properties"]["containerName"]
    sas = rest("POST", "datastores/workspaceartifactstore/listSecrets", json={}).json()["sasToken"]
    for name, status in there.items():
        assert status == ("Failed" if name.endswith("7") else "Completed"), name
        assert sorted(history(rest, name, "m")) == [(step, step * 1.5) for step in range(8)], name

        def read(path):
            reply = rest.session.get(f"{rest.base}/{artifacts}/ExperimentRun/dcid.{name}/{path}?{sas}", headers={"x-ms-version": "2021-12-02"})
            assert reply.status_code == 200, (name, path, reply.text)
            return reply.text

        lines = [line for line in read("user_logs/std_log.txt").splitlines() if line.startswith("line ")]
        assert lines == [f"line {name} {step}" for step in range(8)], name
        assert read("outputs/result.txt") == name
    server_log = (folder / "data" / "logs" / "server.log").read_text()
    assert "panic" not in server_log
    assert client.refusals == [], client.refusals[:3]

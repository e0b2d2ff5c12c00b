"""The server is killed at random moments while clients log to it.

What was acknowledged must be there afterwards, nothing twice, and of each batch
all or nothing, acknowledged or not. LAPIS_CRASHES is how often (20), LAPIS_SEED
what the moments are drawn from; a failing run prints both and can be repeated.
"""

import collections
import os
import random
import threading
import time

import pytest
import requests
from conftest import REST, Server

CRASHES = int(os.environ.get("LAPIS_CRASHES", "20"))
SEED = int(os.environ.get("LAPIS_SEED") or random.randrange(1 << 32))

V2, V3 = "/api/2.0/mlflow/", "/api/3.0/mlflow/"
KEYS, POINTS, BATCHES = 4, 30, 40  # metrics of a batch, points of each, batches of a run


class Client:
    """One kind of write after the other, until it is told to stop."""

    def __init__(self, environ, seed):
        self.rest = REST(environ)
        self.random = random.Random(seed)
        self.stop = threading.Event()
        self.failed = None
        self.refusals = []
        self.count = 0

    def send(self, method, path, body, again=True):
        """An answer; None when there was none. What changes nothing the second
        time is sent until it is answered."""
        while True:
            try:
                reply = self.rest(method, f"/mlflow/v1.0{self.rest.scope}{path}", version=None, json=body, timeout=30)
            except requests.RequestException:
                reply = None
            if reply is not None and reply.status_code < 500:
                assert reply.status_code == 200, (path, reply.text)
                return reply.json()
            if reply is not None:
                self.refusals.append((path, reply.status_code, reply.text[:300]))
            if not again or self.stop.is_set():
                return None
            time.sleep(0.02)

    def get(self, path, **params):
        reply = self.rest("GET", f"/mlflow/v1.0{self.rest.scope}{path}", version=None, params=params)
        assert reply.status_code == 200, (path, params, reply.text)
        return reply.json()

    def work(self):
        try:
            while not self.stop.is_set():
                self.act()
        except BaseException as err:
            self.failed = err
            raise

    def new_run(self):
        made = self.send("POST", V2 + "runs/create", {"experiment_id": "0", "start_time": 1})
        return made["run"]["info"]["run_id"] if made else None

    def history(self, run, key):
        found = self.get(V2 + "metrics/get-history", run_id=run, metric_key=key).get("metrics", [])
        return [(m["step"], m["value"]) for m in found]


class Batches(Client):
    """Batches of metrics, params and tags; one whose answer is lost is sent
    again, or not."""

    def __init__(self, *args):
        super().__init__(*args)
        self.runs = []  # (run, {batch: acknowledged})

    def act(self):
        if not self.runs or len(self.runs[-1][1]) == BATCHES:
            run = self.new_run()
            if run:
                self.runs.append((run, {}))
            return
        run, batches = self.runs[-1]
        n = len(batches)
        batches[n] = False
        body = {
            "run_id": run,
            "metrics": [
                {"key": f"k{k}", "value": n + i / 64, "step": n * POINTS + i, "timestamp": n}
                for k in range(KEYS) for i in range(POINTS)
            ],
            "params": [{"key": f"p{n}", "value": str(n)}],
            "tags": [{"key": f"t{n}", "value": str(n)}],
        }
        batches[n] = self.send("POST", V2 + "runs/log-batch", body, again=self.random.random() < 0.7) is not None

    def check(self):
        for run, batches in self.runs:
            data = self.get(V2 + "runs/get", run_id=run)["run"]["data"]
            params = {p["key"]: p["value"] for p in data.get("params", [])}
            tags = {t["key"]: t["value"] for t in data.get("tags", [])}
            there = collections.Counter()
            for k in range(KEYS):
                points = self.history(run, f"k{k}")
                assert len(points) == len(set(points)), f"run {run} has points twice"
                for step, value in points:
                    assert value == step // POINTS + step % POINTS / 64, (run, step, value)
                    there[step // POINTS] += 1
            for n, acknowledged in batches.items():
                whole = there[n] == KEYS * POINTS and params.get(f"p{n}") == str(n) and tags.get(f"t{n}") == str(n)
                nothing = there[n] == 0 and f"p{n}" not in params and f"t{n}" not in tags
                assert whole or nothing and not acknowledged, (run, n, acknowledged, there[n])
            latest = {m["key"]: m["step"] for m in data.get("metrics", [])}
            if there:
                assert set(latest.values()) == {max(there) * POINTS + POINTS - 1}, (run, latest)
        return f"{sum(sum(b.values()) for _, b in self.runs)} batches"


class Singles(Client):
    """Metrics, params and tags, each by itself."""

    def __init__(self, *args):
        super().__init__(*args)
        self.run = None
        self.metrics, self.params, self.tags = {}, {}, {}

    def act(self):
        if not self.run:
            self.run = self.new_run()
            return
        self.count += 1
        n, value = self.count, self.random.random()
        match n % 3:
            case 0:
                if self.send("POST", V2 + "runs/log-metric", {"run_id": self.run, "key": "m", "value": value, "step": n, "timestamp": n}) is not None:
                    self.metrics[n] = value
            case 1:
                if self.send("POST", V2 + "runs/log-parameter", {"run_id": self.run, "key": f"p{n}", "value": str(value)}) is not None:
                    self.params[f"p{n}"] = str(value)
            case 2:
                if self.send("POST", V2 + "runs/set-tag", {"run_id": self.run, "key": f"t{n % 50}", "value": str(value)}) is not None:
                    self.tags[f"t{n % 50}"] = str(value)

    def check(self):
        data = self.get(V2 + "runs/get", run_id=self.run)["run"]["data"]
        params = {p["key"]: p["value"] for p in data.get("params", [])}
        tags = {t["key"]: t["value"] for t in data.get("tags", [])}
        assert self.params.items() <= params.items()
        last = f"t{self.count % 50}"  # its answer may have been lost
        assert {k: v for k, v in self.tags.items() if k != last}.items() <= tags.items()
        points = self.history(self.run, "m")
        assert len(points) == len(set(points)), "points are there twice"
        assert self.metrics.items() <= set(points)
        return f"{len(self.metrics)} metrics, {len(self.params)} params, {len(self.tags)} tags"


class Versions(Client):
    """Versions of a model, each with a description of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.made, self.asked = {}, set()
        assert self.send("POST", V2 + "registered-models/create", {"name": "m"})

    def act(self):
        self.count += 1
        text = f"version-{self.count}"
        self.asked.add(text)
        reply = self.send("POST", V2 + "model-versions/create", {"name": "m", "source": f"s3://bucket/{self.count}", "description": text}, again=False)
        if reply:
            self.made[reply["model_version"]["version"]] = text
        self.stop.wait(0.02)

    def check(self):
        found, token = {}, ""
        while True:
            page = self.get(V2 + "model-versions/search", filter="name='m'", max_results=200, page_token=token)
            for v in page.get("model_versions", []):
                assert v["version"] not in found
                found[v["version"]] = v["description"]
            token = page.get("next_page_token")
            if not token:
                break
        assert self.made.items() <= found.items()
        assert len(found) == len(set(found.values())), "a version is there twice"
        assert set(found.values()) <= self.asked
        return f"{len(self.made)} model versions"


class Traces(Client):
    """Traces with an assessment each."""

    def __init__(self, *args):
        super().__init__(*args)
        self.made, self.assessed = {}, {}

    def act(self):
        self.count += 1
        trace = f"tr-{self.count:032x}"
        info = {
            "trace_id": trace, "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}},
            "request_time": "2026-01-01T00:00:00.000Z", "state": "OK", "tags": {"n": str(self.count)},
        }
        if self.send("POST", V3 + "traces", {"trace": {"trace_info": info}}) is None:
            return
        self.made[trace] = str(self.count)
        assessment = {"assessment_name": "good", "trace_id": trace, "source": {"source_type": "HUMAN", "source_id": "me"}, "feedback": {"value": self.count}}
        if self.send("POST", V3 + f"traces/{trace}/assessments", {"assessment": assessment}, again=False):
            self.assessed[trace] = self.count

    def check(self):
        for trace, n in self.made.items():
            info = self.get(V3 + f"traces/{trace}")["trace"]["trace_info"]
            assert info["tags"]["n"] == n
            values = [a["feedback"]["value"] for a in info.get("assessments", [])]
            assert len(values) <= 1, (trace, values)
            if trace in self.assessed:
                assert values == [self.assessed[trace]], (trace, values)
        return f"{len(self.made)} traces, {len(self.assessed)} assessments"


@pytest.mark.timeout(180 + 30 * CRASHES)
def test_nothing_that_was_logged_is_lost_or_halved_or_doubled(tmp_path, capsys):
    draw = random.Random(SEED)
    server = Server(tmp_path / "data")
    try:
        environ = server.environ()
        clients = [kind(environ, draw.random()) for kind in (Batches, Batches, Singles, Versions, Traces)]
        threads = [threading.Thread(target=c.work, daemon=True) for c in clients]
        for t in threads:
            t.start()
        for _ in range(CRASHES):
            # Points are folded after two seconds of rest, or when there are many.
            time.sleep(draw.choice([0, 0.3, 2, 4]) * draw.random())
            server.kill()
            server.start()
            assert [c.failed for c in clients if c.failed] == []
        time.sleep(1)
        for c in clients:
            c.stop.set()
        for t in threads:
            t.join(60)
        assert [c.failed for c in clients if c.failed] == []
        did = ", ".join(c.check() for c in clients)
        assert all(c.refusals == [] for c in clients), [c.refusals[:3] for c in clients]
        time.sleep(3)  # what waited is folded now
        assert did == ", ".join(c.check() for c in clients)
        server.kill()
        server.start()
        assert did == ", ".join(c.check() for c in clients)
        assert "panic" not in (tmp_path / "data" / "logs" / "server.log").read_text()
        with capsys.disabled():
            print(f"\n{CRASHES} kills, seed {SEED}: {did} acknowledged")
    except BaseException:
        print(f"repeat with LAPIS_CRASHES={CRASHES} LAPIS_SEED={SEED}")
        raise
    finally:
        server.stop()

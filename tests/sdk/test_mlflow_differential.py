"""Random sequences of MLflow calls, sent to `mlflow server` and to Lapis: the
answers must be the same, field by field, but for the differences listed here.

LAPIS_SEQUENCES says how many sequences, LAPIS_SEED which one is the first; a
failure names the seed that shows it again."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.parse

import pytest
import requests

API = "/api/2.0/mlflow/"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The address of a real MLflow server."""
    given = os.environ.get("LAPIS_MLFLOW_REFERENCE")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("mlflow-server")
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    env["PATH"] = os.path.dirname(sys.executable) + os.pathsep + env["PATH"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/m.db",
             "--artifacts-destination", str(folder / "artifacts"), "--port", str(port), "--workers", "1"],
            env=env, stdout=log, stderr=log, start_new_session=True)
    url = f"http://localhost:{port}"
    try:
        for _ in range(600):
            try:
                if requests.get(url + "/health", timeout=2).ok:
                    break
            except requests.RequestException:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)


class Side:
    """One of the two servers, with its own ids of things."""

    def __init__(self, url, token=None):
        self.url, self.ids = url, {}
        self.session = requests.Session()
        self.session.trust_env = False
        if token:
            self.session.headers["Authorization"] = "Bearer " + token

    def call(self, method, path, body):
        body = self.named(json.dumps(body))
        path = self.named(path)
        if method == "GET":
            reply = self.session.get(self.url + API + path, timeout=60)
        else:
            reply = self.session.request(method, self.url + API + path, data=body.encode(),
                                         headers={"Content-Type": "application/json"}, timeout=60)
        try:
            return reply.status_code, reply.json()
        except ValueError:
            return reply.status_code, {"not json": reply.text[:200]}

    def named(self, text):
        return re.sub(r"<(\w+)>", lambda m: self.ids.get(m.group(1), m.group(0)), text)

    def symbolic(self, text):
        for name, real in sorted(self.ids.items(), key=lambda x: -len(x[1])):
            if len(real) > 8:
                text = text.replace(real, f"<{name}>")
        return text


# Fields that differ because time and chance do.
VOLATILE = {"creation_time", "last_update_time", "creation_timestamp", "last_updated_timestamp", "next_page_token",
            "creation_timestamp_ms", "last_updated_timestamp_ms", "user_id", "sqlstate", "error_class",
            "effective_trace_archival_retention"}


def tidy(v, side, experiments):
    """The answer with ids replaced, lists in order and what is volatile left out."""
    if isinstance(v, dict):
        out = {}
        for k, x in v.items():
            if k in VOLATILE:
                continue
            if k == "experiment_id" and x in experiments:
                x = experiments[x]
            elif k in ("artifact_uri", "artifact_location", "root_uri"):
                x = re.sub(r"^mlflow-artifacts:/(\d+)", lambda m: "mlflow-artifacts:/" + experiments.get(m.group(1), m.group(1)), x)
            out[k] = tidy(x, side, experiments)
        return out
    if isinstance(v, list):
        items = [tidy(x, side, experiments) for x in v]
        if items and all(isinstance(i, dict) and "key" in i and "step" not in i for i in items):
            items.sort(key=lambda i: json.dumps(i, sort_keys=True))
        if items and all(isinstance(i, dict) and "step" in i and "timestamp" in i for i in items):
            items.sort(key=lambda i: json.dumps(i, sort_keys=True))
        return items
    if isinstance(v, str):
        return side.symbolic(v)
    return v


# Lapis is stricter, or says it in other words: (theirs, ours, why).
ALLOWED = [
    (r"200 .*", r"400 .*Value was of type", "a value of a wrong type is refused, not stored as zero"),
    (r"500 .*", r"4\d\d .*", "a client's mistake is never the server's"),
    (r"400 .*(IntegrityError|FOREIGN KEY|BAD_REQUEST).*", r"4\d\d .*", "the database's own words are not shown"),
    (r"400 .*", r"400 .*Invalid comparator.*", "sets are printed in random order; order_by is looked at later"),
    (r"400 .*Invalid attribute key.*", r"400 .*Invalid attribute key.*", "sets are printed in random order"),
    (r"400 .*already exists.*", r"400 .*already exists.*", "the database's own words are not shown"),
    (r"400 .*Invalid clause.*", r"400 .*", "a malformed filter is cut in other places"),
    (r"400 .*", r"400 .*Value was of type", "of several mistakes in a request, another is named first"),
    (r"400 .*Invalid (experiment|model) name.*", r"400 .*", "words of a refused name"),
]


def allowed(theirs, ours):
    a, b = (f"{x[0]} {json.dumps(x[1])}" for x in (theirs, ours))
    return any(re.match(p, a) and re.match(q, b) for p, q, _ in ALLOWED)


KEYS = ["a", "b", "a/b", "val loss", "ä", "a:b"] * 4 + ["", "a//b", "../x", "/x", "a?b", "k" * 251, ".", 7, None]
VALUES = ["x", "y", "", "10", "ünï", "v" * 600, "it's"]
NUMBERS = [0, 1, -1, 0.5, 1e300, "NaN", "Infinity", "-Infinity", "3.5"] * 3 + [None, "x", {}]
STEPS = [0, 1, 2, 10, -5, 2**40, "7"]
TIMES = [0, 1, 2, 1700000000000] * 5 + [-1, None]
FILTERS = ["", "metrics.a > 0", "metrics.a <= 1", "metrics.a != 5", "params.a = 'x'", "params.a != 'x'", "params.a LIKE '%X%'", "params.a ILIKE '%X%'",
           "tags.a = 'x' AND metrics.b >= 0", "tags.`a/b` IS NULL", "tags.a IS NOT NULL", "params.\"val loss\" = 'y'", "attributes.status = 'RUNNING'",
           "status != 'FINISHED'", "run_name LIKE 'n%'", "attributes.run_name = 'n1'", "start_time > 5", "run_id IN ('<run0>', '<run1>')",
           "run_id NOT IN ('<run0>')", "end_time > 0", "dataset.name = 'd'", "dataset.context LIKE 'tr%'",
           "metrics.a = 'x'", "params.a = 1", "bogus.a = 'x'", "attribute.bogus = 'x'", "tags.a > 'x'", "metrics.a LIKE 1", "tags.a IN ('x')",
           "status IN ('RUNNING')", "metrics.a > 1 OR metrics.a < 0", "metrics.a", "a b c", "params.a = 'x"]
ORDERS = [[], ["metrics.a"], ["metrics.a DESC"], ["params.a"], ["tags.a DESC"], ["start_time ASC"], ["attributes.run_name DESC"], ["status", "metrics.b"],
          ["metrics.`a/b` ASC"], ["bogus.a"], ["metrics.a sideways"], [""], ["attributes.bogus"]]


def sequence(rng, seed):
    """Yields calls: method, path, body and the name that the id in the answer gets."""
    runs, experiments = [], []

    def run():
        return rng.choice([f"<{r}>" for r in runs] * 6 + ["nope"]) if runs else "nope"

    def experiment():
        return rng.choice([f"<{e}>" for e in experiments] * 8 + ["99999999", "abc"]) if experiments else "99999999"

    def tag():
        return {"key": rng.choice(KEYS), "value": rng.choice(VALUES)}

    def point():
        p = {"key": rng.choice(KEYS), "value": rng.choice(NUMBERS), "timestamp": rng.choice(TIMES), "step": rng.choice(STEPS)}
        return {k: v for k, v in p.items() if rng.random() > 0.03}

    for i in range(2):
        name = f"e{len(experiments)}"
        yield "POST", "experiments/create", {"name": f"diff-{seed}-{i}", "tags": [{"key": "t", "value": str(i)}]}, name
        experiments.append(name)
    for i in range(3):
        name = f"run{len(runs)}"
        yield "POST", "runs/create", {"experiment_id": experiment(), "run_name": f"n{i}", "start_time": i * 5, "tags": [{"key": "a", "value": "x"}]}, name
        runs.append(name)
    for _ in range(60):
        kind = rng.randrange(24)
        if kind <= 3:
            yield "POST", "runs/log-metric", {"run_id": run()} | point(), None
        elif kind <= 5:
            yield "POST", "runs/log-parameter", {"run_id": run(), **tag()}, None
        elif kind <= 7:
            yield "POST", "runs/set-tag", {"run_id": run(), **tag()}, None
        elif kind == 8:
            yield "POST", "runs/delete-tag", {"run_id": run(), "key": rng.choice(KEYS[:8] + ["nope"])}, None
        elif kind <= 11:
            body = {"run_id": run(), "metrics": [point() for _ in range(rng.randrange(6))], "params": [tag() for _ in range(rng.randrange(3))],
                    "tags": [tag() for _ in range(rng.randrange(3))]}
            for field in ("metrics", "params", "tags"):
                if rng.random() < 0.8:
                    body[field] = [x for x in body[field] if x.get("key") in KEYS[:6] and x.get("value") not in (None, "x", {}) or field != "metrics" and x["key"] in KEYS[:6]]
            yield "POST", "runs/log-batch", body, None
        elif kind == 12:
            yield "POST", "runs/update", {"run_id": run(), "status": rng.choice(["FINISHED", "RUNNING", "FAILED", "KILLED", "SCHEDULED"]),
                                          "end_time": rng.choice([5, 1700000000000]), "run_name": rng.choice(["n1", "other", ""])}, None
        elif kind == 13:
            yield "POST", rng.choice(["runs/delete", "runs/restore", "runs/restore"]), {"run_id": run()}, None
        elif kind == 14:
            yield "POST", rng.choice(["experiments/delete", "experiments/restore", "experiments/restore"]), {"experiment_id": experiment()}, None
        elif kind == 15:
            yield "POST", "experiments/set-experiment-tag", {"experiment_id": experiment(), **tag()}, None
        elif kind == 16:
            yield "POST", "experiments/update", {"experiment_id": experiment(), "new_name": f"diff-{seed}-{rng.randrange(4)}"}, None
        elif kind == 17:
            yield "POST", "runs/log-inputs", {"run_id": run(), "datasets": [{"tags": [{"key": "mlflow.data.context", "value": "train"}],
                                              "dataset": {"name": rng.choice(["d", "e"]), "digest": "1", "source_type": "t", "source": "s"}}]}, None
        elif kind <= 20:
            yield "POST", "runs/search", {"experiment_ids": [f"<{e}>" for e in experiments], "filter": rng.choice(FILTERS), "order_by": rng.choice(ORDERS),
                                          "max_results": rng.choice([1, 2, 100]), "run_view_type": rng.choice(["ACTIVE_ONLY", "ALL", "DELETED_ONLY"])}, None
        elif kind == 21:
            key = urllib.parse.quote(str(rng.choice(KEYS[:6])))
            yield "GET", f"metrics/get-history?run_id={run()}&metric_key={key}", None, None
        elif kind == 22:
            key = urllib.parse.quote(str(rng.choice(KEYS[:6])))
            span = rng.choice(["", "&start_step=0&end_step=5", "&start_step=3", "&max_results=1", "&max_results=2", "&max_results=0"])
            yield "GET", f"metrics/get-history-bulk-interval?run_ids={run()}&run_ids={run()}&metric_key={key}{span}", None, None
        else:
            yield "GET", f"runs/get?run_id={run()}", None, None
    for r in runs:
        yield "GET", f"runs/get?run_id=<{r}>", None, None
        yield "GET", f"artifacts/list?run_id=<{r}>", None, None
    for e in experiments:
        yield "GET", f"experiments/get?experiment_id=<{e}>", None, None


SEQUENCES = int(os.environ.get("LAPIS_SEQUENCES", "8"))
FIRST = int(os.environ.get("LAPIS_SEED", str(random.SystemRandom().randrange(10**9))))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEQUENCES))
def test_answers_are_those_of_mlflow(reference, seed):
    theirs = Side(reference)
    ours = Side(os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_TRACKING_TOKEN"])
    rng = random.Random(seed)
    wrong = []
    for method, path, body, name in sequence(rng, f"{seed}-{time.time_ns()}"):
        answers = []
        for side in (theirs, ours):
            status, reply = side.call(method, path, body)
            if name:
                found = reply.get("experiment_id") or (reply.get("run") or {}).get("info", {}).get("run_id")
                if found:
                    side.ids[name] = found
            back = {real: f"<{n}>" for n, real in side.ids.items() if n.startswith("e")}
            reply = tidy(reply, side, back)
            if status >= 400 and "message" in reply:
                for real, symbol in back.items():
                    reply["message"] = re.sub(rf"(experiment |id=|id )'?{real}\b", rf"\1{symbol}", reply["message"])
            answers.append((status, reply))
        if answers[0] == answers[1]:
            continue
        if allowed(*answers):
            if answers[0][0] == 200:
                break  # from here on the two hold different things
        else:
            wrong.append(f"{method} {path} {json.dumps(body, ensure_ascii=False)}\n  MLflow {answers[0]}\n  Lapis  {answers[1]}")
    assert not wrong, f"LAPIS_SEED={seed} LAPIS_SEQUENCES=1 shows it again:\n" + "\n".join(wrong)

"""Sends one call to both servers and says how the answers differ.

What a server makes up itself (ids, names, times, page tokens) is replaced by a
symbol before the answers are compared. A symbol is written ⟨run1⟩; a call names
the symbols that its answer gives a value, and later calls use them. A time is
replaced by the call in which the server took it.
"""

import calendar
import concurrent.futures
import dataclasses
import json
import math
import re
import time

SYMBOL = re.compile("⟨[^⟩]*⟩")
MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z")

# Times that servers take from their own clock.
TIMES = {
    "creation_time", "last_update_time", "creation_timestamp", "last_updated_timestamp",
    "creation_timestamp_ms", "last_updated_timestamp_ms", "create_time", "created_time", "last_updated_time",
}  # fmt: skip

# Lists whose order means nothing; so do the metrics of a run's or model's data.
UNORDERED = {"tags", "params", "aliases", "dataset_inputs", "model_inputs", "model_outputs", "latest_versions", "assessments", "experiment_ids", "records"}

# Texts that hold JSON.
PACKED = {"records", "tags", "profile", "schema", "mlflow.linkedPrompts"}

# Ids that no call of a story names.
MADE = {"dataset_record_id", "scorer_id", "assessment_id"}


@dataclasses.dataclass
class Call:
    method: str
    path: str  # below the server's address
    body: object = None  # JSON
    query: list = None  # pairs
    raw: bytes = None  # a body that is not JSON, or broken JSON
    headers: dict = None
    binds: dict = dataclasses.field(default_factory=dict)  # symbol → where its value is in the answer
    scrap: bool = False  # touches only things that no other call looks at

    def __str__(self):
        text = f"{self.method} {self.path}"
        if self.query:
            text += " ?" + "&".join(f"{k}={v}" for k, v in self.query)
        if self.body is not None:
            text += " " + json.dumps(self.body, ensure_ascii=False)
        if self.raw is not None:
            text += " " + repr(self.raw)
        if self.headers:
            text += f" {self.headers}"
        return text if len(text) < 2000 else text[:2000] + "…"


@dataclasses.dataclass
class Difference:
    call: Call
    where: str  # "status", "error_code", "message", or the field's path
    theirs: object
    ours: object
    answers: tuple = ()

    def __str__(self):
        return f"{self.call}\n    {self.where}\n      mlflow: {self.theirs!r:.600}\n      lapis:  {self.ours!r:.600}"


def canonical(value):
    if isinstance(value, dict) and "version" in value:
        return str(value["version"])
    return json.dumps(value, sort_keys=True)


def in_order(match):
    """A Python set in a message, its elements in order."""
    return "{" + ", ".join(sorted(match.group(1).split(", "))) + "}"


def dig(value, path):
    """The value at a path like run.info.run_id, or None."""
    for part in path.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            return None
    return value


class Pair:
    """Both servers, and what the symbols mean for each."""

    def __init__(self, reference, lapis, pool=None):
        self.servers = (reference, lapis)
        self.pool = pool or concurrent.futures.ThreadPoolExecutor(2)
        self.reset()

    def reset(self):
        self.meaning = ({}, {})  # symbol → value, per server
        self.windows = []  # (from, to) in ms, of each call

    def call(self, call):
        """Send a call to both; return MLflow's answer and the differences."""
        if self.windows:
            while int(time.time() * 1000) <= self.windows[-1][1]:
                time.sleep(0.0005)
        start = int(time.time() * 1000)
        answers = tuple(self.pool.map(lambda i: self._send(i, call), (0, 1)))
        self.windows.append((start, int(time.time() * 1000)))
        for symbol, path in call.binds.items():
            made = [dig(a.body, path) for a in answers]
            if None not in made and "" not in made:
                for i in (0, 1):
                    self.meaning[i][symbol] = made[i]
        return answers[0], self._compare(call, answers)

    def _send(self, i, call):
        fill = self.meaning[i]

        def put(v):
            if isinstance(v, str):
                return SYMBOL.sub(lambda m: str(fill.get(m.group(), "unbound")), v)
            if isinstance(v, list):
                return [put(x) for x in v]
            if isinstance(v, dict):
                return {put(k): put(x) for k, x in v.items()}
            return v

        headers = {k: put(v) for k, v in (call.headers or {}).items()}
        body = call.raw
        if call.body is not None:
            body = json.dumps(put(call.body), ensure_ascii=False).encode()
            headers.setdefault("Content-Type", "application/json")
        if headers.get("Content-Type") == "":
            del headers["Content-Type"]
        query = [(k, put(v)) for k, v in call.query or []]
        return self.servers[i].send(call.method, put(call.path), query, body, headers)

    def _compare(self, call, answers):
        theirs, ours = answers
        found = []

        def differ(where, a, b):
            found.append(Difference(call, where, a, b, answers))

        if theirs.status != ours.status:
            differ("status", self._words(0, theirs), self._words(1, ours))
            return found
        if theirs.kind != ours.kind and theirs.body not in ("", b""):
            differ("content-type", theirs.kind, ours.kind)
        if not theirs.ok and isinstance(theirs.body, dict) and isinstance(ours.body, dict):
            for k in ("error_code", "message"):
                a, b = self._symbols(0, theirs.body.get(k), k), self._symbols(1, ours.body.get(k), k)
                if a != b:
                    differ(k, a, b)
            return found
        latest = call.path.endswith("get-latest-versions")
        a, b = self._symbols(0, theirs.body, "", latest), self._symbols(1, ours.body, "", latest)
        if call.path.endswith("get-history-bulk"):
            # Ordered by run ids, which are random.
            for body in (a, b):
                body["metrics"].sort(key=lambda m: m["run_id"])
        walk(a, b, "", differ)
        return found

    def _words(self, i, answer):
        """An answer in a line: status, error code, message."""
        body = answer.body
        if isinstance(body, dict):
            text = f"{body.get('error_code', '')} {body.get('message', '')}" if not answer.ok else json.dumps(body)
        else:
            text = str(body)
        return f"{answer.status} {self._symbols(i, text, 'message')}"

    def _symbols(self, i, value, field="", latest=False):
        """value with this server's own words replaced by symbols. latest tells
        that it is of versions one per stage, which are in no order."""
        if isinstance(value, dict):
            fields = {self._symbols(i, k): self._symbols(i, v, k, latest) for k, v in value.items()}
            if "dataset_id" in value and "digest" in value:
                fields["digest"] = "⟨of the name and the time⟩"
            if field == "data" and "metrics" in fields:
                fields["metrics"].sort(key=canonical)
            return fields
        if isinstance(value, list):
            items = [self._symbols(i, v, field) for v in value]
            if field in UNORDERED or field == "model_versions" and latest:
                items.sort(key=canonical)
            return items
        if isinstance(value, float) and field.startswith("npmi"):
            return round(value, 12)  # of logarithms
        if isinstance(value, float) and math.isnan(value):
            return "nan"
        if field in TIMES and isinstance(value, int):
            return self._moment(value)
        if field.endswith("page_token"):
            return "⟨token⟩"
        if field in MADE:
            return f"⟨{field}⟩"
        if field in TIMES and isinstance(value, str) and (m := MOMENT.fullmatch(value)):
            return self._moment(calendar.timegm(time.strptime(m[1], "%Y-%m-%dT%H:%M:%S")) * 1000 + int((m[2] or "0").ljust(3, "0")[:3]))
        if field in PACKED and isinstance(value, str) and value[:1] in ("{", "["):
            return self._symbols(i, json.loads(value), field)
        if field == "experiment_id" and isinstance(value, int):  # a scorer's
            value = str(value)
        if not isinstance(value, str):
            return value
        if field == "message":
            value = re.sub(r"\{('[^{}]*')\}", in_order, value)
        for symbol, real in self.meaning[i].items():
            real = str(real)
            if real == str(self.meaning[1 - i].get(symbol)):
                continue  # both say the same
            if real.isdigit():  # an experiment's
                if field in ("experiment_id", "experiment_ids", "mlflow.experimentId") and value == real:
                    return symbol
                if field in ("artifact_location", "artifact_uri", "root_uri", "source", "mlflow.artifactLocation") or field == "value" and "/traces/" in value:
                    value = re.sub(rf"(:/|:/workspaces/[^/]+/){real}(?!\w)", rf"\g<1>{symbol}", value)
                elif field == "message":
                    value = re.sub(rf"""(id=|id |ID |iment |['"]){real}(?!\w)""", rf"\g<1>{symbol}", value)
            elif value == real:
                return symbol
            elif len(real) >= 32:
                value = value.replace(real, symbol)
            elif field == "message" and "-" in real:
                value = value.replace(real, symbol)
        return value

    def _moment(self, t):
        for n in range(len(self.windows) - 1, -1, -1):
            if self.windows[n][0] <= t <= self.windows[n][1]:
                return f"⟨during call {n}⟩"
        return "⟨before⟩" if t > 1_600_000_000_000 else t


def walk(a, b, path, differ):
    """Compare two values field by field."""
    if isinstance(a, dict) and isinstance(b, dict):
        for k in sorted(a.keys() | b.keys()):
            if k not in a:
                differ(f"{path}.{k}", None, b[k])
            elif k not in b:
                differ(f"{path}.{k}", a[k], None)
            else:
                walk(a[k], b[k], f"{path}.{k}", differ)
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            differ(f"{path}.length", (len(a), a), (len(b), b))
            return
        for i, (x, y) in enumerate(zip(a, b)):
            walk(x, y, f"{path}[{i}]", differ)
    elif a != b or type(a) is not type(b) and not {type(a), type(b)} <= {int, float}:
        differ(path, a, b)

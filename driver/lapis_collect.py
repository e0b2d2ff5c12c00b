"""The other end of azureml-ai-monitoring: what a script's Collector is given
becomes a line of its collection's file in the spool.

The package is the user's, or the platform's, and stays as it is. In the cloud it
posts each event to a process beside it; here its sender is given another send(),
so that no request is spent on it. Sampling, the queue and its thread are the
package's own."""

import importlib.abc
import importlib.util
import json
import os
import sys
import time
import uuid

SPOOL = "LAPIS_GROUP_SPOOL"
COLLECTIONS = "LAPIS_GROUP_COLLECTIONS"  # JSON: collection → share of its events that is kept
SOURCE = "LAPIS_GROUP_SOURCE"
ENDING = ".jsonl"
SENDER = "azureml.ai.monitoring.worker.sender"
MOST = 5  # collections of a deployment
PAYLOADS = ("request", "response")  # kept by the gateway


def install(env):
    """Turns the collector on when there is a spool and a collection for it."""
    try:
        shares = json.loads(env.get(COLLECTIONS) or "{}")
    except ValueError:
        shares = {}
    shares = {name.lower(): share for name, share in shares.items() if name.lower() not in PAYLOADS}
    if not env.get(SPOOL) or not shares:
        return
    collections = {
        name: {"enabled": True, "sampleRatePercentage": max(0.0, min(1.0, share)) * 100}
        for name, share in sorted(shares.items())[:MOST]
    }
    path = os.path.join(env["LAPIS_GROUP_DIR"], "collect.json")
    with open(path, "w") as f:
        json.dump({"collections": collections}, f)
    env["AZUREML_MDC_CONFIG_PATH"] = path
    if "model_inputs" in collections or "model_outputs" in collections:
        env.setdefault("ENABLE_MDC", "true")
    sys.meta_path.insert(0, Finder())


class Finder(importlib.abc.MetaPathFinder):
    """Finds the module with the sender, and changes it once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != SENDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


class Loader(importlib.abc.Loader):
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        sender = getattr(module, "MdcSender", None)
        if sender is not None:
            sender.send = send


def send(sender, payload):
    """Appends an event, in one write: (whether it is kept, what is told)."""
    try:
        name = payload.designation().lower()
        content = payload.content()
        if not isinstance(content, str):
            content = json.dumps(content.decode("utf-8", "replace"))
        line = (event(name, payload) + content + "}\n").encode()
        path = os.path.join(os.environ[SPOOL], name + ENDING)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            written = os.write(fd, line)
        finally:
            os.close(fd)
    except OSError as e:
        return False, "the event could not be kept: %s" % e
    if written < len(line):
        return False, "the event could not be kept whole: the disk is full"
    return True, "done"


def event(name, payload):
    """A CloudEvent up to the value of its data."""
    t = payload.time()
    fields = {
        "specversion": "1.0",
        "id": payload.id() or str(uuid.uuid4()),
        "source": os.environ.get(SOURCE, ""),
        "type": "azureml.inference." + name,
        "datacontenttype": "application/json",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)) + "Z",
        "collectdatatype": payload.type(),
        "agent": payload.agent(),
    }
    if payload.model_version() is not None:
        fields["modelversion"] = payload.model_version()
    if payload.correlation_id() is not None:
        fields["correlationid"] = fields["xrequestid"] = payload.correlation_id()
    for key, value in payload.headers().items():
        key = "".join(c for c in str(key).lower() if c.isalnum())
        if key and key != "data":
            fields.setdefault(key, str(value))
    return json.dumps(fields)[:-1] + ', "data": '


def stop():
    """Returns when all that was collected is written."""
    monitoring = sys.modules.get("azureml.ai.monitoring.init")
    if monitoring is not None:
        monitoring.teardown(wait_for_flush=True)

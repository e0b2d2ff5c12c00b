"""Webhooks of the model registry, by the unmodified MLflow client and with a real
https receiver; also when the server is killed before it could deliver."""

import base64
import datetime
import hashlib
import hmac
import http.server
import ipaddress
import json
import os
import queue
import ssl
import threading

import pytest
from conftest import Server, python


@pytest.fixture
def certificate(tmp_path):
    """A key with a certificate for 127.0.0.1; ca.pem beside it is the certificate alone."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "receiver.pem"
    shown = made.public_bytes(serialization.Encoding.PEM)
    path.with_name("ca.pem").write_bytes(shown)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + shown)
    return path


class Receiver:
    """Takes webhooks over https; until it is `open` it answers 503."""

    def __init__(self, certificate):
        self.open = threading.Event()
        self.got = queue.Queue()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.open.is_set():
                    receiver.got.put((dict(self.headers), body))
                self.send_response(200 if receiver.open.is_set() else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/in"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver(certificate):
    r = Receiver(certificate)
    yield r
    r.close()


@pytest.fixture
def hooked(tmp_path, certificate):
    """A server that may reach private addresses and trusts the receiver."""
    # This shell is connected to a server: what it trusted before stands here.
    environ = dict(os.environ, LAPIS_OLD_REQUESTS_CA_BUNDLE=str(certificate.with_name("ca.pem")))
    s = Server(tmp_path / "data", flags=["--private-webhooks"], environ=environ)
    yield s
    s.stop()


def run(server, code):
    client = python(code, server.environ())
    out, _ = client.communicate(timeout=300)
    assert client.returncode == 0, out
    return out


HOOK = """
import json
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookEvent
client = MlflowClient()
hook = client.create_webhook("hook", {url!r}, ["registered_model.created", "model_version_tag.set"], description="d", secret="s3cret")
assert client.get_webhook(hook.webhook_id).secret is None
assert [w.webhook_id for w in client.list_webhooks()] == [hook.webhook_id]
"""


def test_a_killed_server_delivers_what_it_acknowledged(hooked, receiver):
    run(hooked, HOOK.format(url=receiver.url) + "\nfor i in range(20): client.create_registered_model(f'm{i}', tags={'k': 'v'})")
    hooked.kill()
    receiver.open.set()
    hooked.start()
    told, ids = {}, {}
    while len(told) < 20:
        headers, body = receiver.got.get(timeout=120)
        event = json.loads(body)
        assert (event["entity"], event["action"], event["data"]["tags"]) == ("registered_model", "created", {"k": "v"})
        signed = hmac.new(b"s3cret", f"{headers['X-Mlflow-Delivery-Id']}.{headers['X-Mlflow-Timestamp']}.".encode() + body, hashlib.sha256)
        assert headers["X-Mlflow-Signature"] == "v1," + base64.b64encode(signed.digest()).decode()
        assert ids.setdefault(headers["X-Mlflow-Delivery-Id"], event["data"]["name"]) == event["data"]["name"]
        told[event["data"]["name"]] = event
    assert sorted(told) == sorted(f"m{i}" for i in range(20)) and len(ids) == 20


def test_the_client_tests_changes_and_deletes_webhooks(hooked, receiver):
    receiver.open.set()
    out = run(hooked, HOOK.format(url=receiver.url) + """
result = client.test_webhook(hook.webhook_id)
assert result.success and result.response_status == 200, result
result = client.test_webhook(hook.webhook_id, "prompt_alias.created")
assert result.success, result
hook = client.update_webhook(hook.webhook_id, name="other", events=["prompt.created"], status="DISABLED")
assert (hook.name, str(hook.status), [str(e) for e in hook.events]) == ("other", "DISABLED", ["prompt.created"]), hook
from mlflow.exceptions import MlflowException
for wrong in ["http://127.0.0.1/", "https://", "nope"]:
    try:
        client.create_webhook("w", wrong, ["prompt.created"])
        raise SystemExit("taken: " + wrong)
    except MlflowException as err:
        assert err.error_code == "INVALID_PARAMETER_VALUE", err
client.delete_webhook(hook.webhook_id)
assert list(client.list_webhooks()) == []
""")
    events = [json.loads(receiver.got.get(timeout=60)[1]) for _ in range(2)]
    assert [(e["entity"], e["action"]) for e in events] == [("registered_model", "created"), ("prompt_alias", "created")], out
    assert events[0]["data"]["name"] == "example_model" and events[1]["data"]["alias"] == "example_alias"


def test_private_addresses_are_refused_unless_the_server_is_told(server):
    out = run(server, """
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
for url in ["https://127.0.0.1/", "https://localhost/", "https://10.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/"]:
    try:
        MlflowClient().create_webhook("w", url, ["prompt.created"])
        raise SystemExit("taken: " + url)
    except MlflowException as err:
        assert "non-public" in str(err), err
""")
    assert "Traceback" not in out

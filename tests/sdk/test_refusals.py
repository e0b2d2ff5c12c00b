"""Bad input: each is refused with the protocol's own 4xx, which names the
thing, and leaves nothing half made."""

import base64
import http.client
import json
import os
import re
import ssl
import time
import urllib.parse

import pytest
import requests
from conftest import PLAIN


def arm_error(reply):
    """The error of an ARM reply, after checks that it is a client's mistake."""
    assert 400 <= reply.status_code < 500, reply.text
    error = reply.json()["error"]
    assert error["code"] and error["message"]
    return error


def job(**properties):
    return {"properties": {"jobType": "Command", "command": "echo", "experimentName": "bad", **properties}}


@pytest.fixture(scope="module")
def environment(rest):
    reply = rest("PUT", "environments/refusals/versions/1", json={"properties": {"image": PLAIN}})
    assert reply.status_code in (200, 201), reply.text
    return reply.json()["id"]


@pytest.mark.parametrize(
    "what, change, named",
    [
        ("compute", {"computeId": "{W}/computes/nocompute"}, "nocompute"),
        ("environment", {"environmentId": "{W}/environments/noenv/versions/7"}, "noenv"),
        ("code", {"codeId": "{W}/codes/nocode/versions/1"}, "nocode"),
        ("data", {"inputs": {"d": {"jobInputType": "uri_folder", "uri": "{W}/data/nodata/versions/1"}}}, "nodata"),
        ("datastore", {"inputs": {"d": {"jobInputType": "uri_folder", "uri": "azureml://datastores/nostore/paths/x/"}}}, "nostore"),
        ("output's datastore", {"outputs": {"o": {"jobOutputType": "uri_folder", "uri": "azureml://datastores/nostore/paths/x/"}}}, "nostore"),
        ("environment of another workspace", {"environmentId": "{OTHER}/environments/refusals/versions/1"}, "elsewhere"),
        ("compute of another workspace", {"computeId": "{OTHER}/computes/cpu"}, "elsewhere|cpu"),
        ("input without a binding", {"command": "echo ${{inputs.nothere}}"}, "nothere"),
        ("negative count", {"resources": {"instanceCount": -1}}, "instanceCount|instance_count"),
        ("limit that is no duration", {"limits": {"jobLimitsType": "Command", "timeout": "soon"}}, "soon"),
        ("job type", {"jobType": "Dance"}, "Dance"),
        ("path out of the container", {"inputs": {"d": {"jobInputType": "uri_folder", "uri": "azureml://datastores/workspaceblobstore/paths/../../keys"}}}, r"\.\."),
    ],
)
def test_a_job_with_a_bad(what, change, named, rest, environment, unique):
    name = unique("bad")
    other = rest.scope.rsplit("/", 1)[0] + "/elsewhere"
    text = json.dumps(job(environmentId=environment) | {"properties": job(environmentId=environment)["properties"] | change})
    body = json.loads(text.replace("{W}", rest.scope).replace("{OTHER}", other))
    error = arm_error(rest("PUT", f"jobs/{name}", json=body))
    assert re.search(named, error["message"]), error
    assert rest("GET", f"jobs/{name}").status_code == 404
    assert rest("GET", f"/history/v1.0{rest.scope}/runs/{name}", version=None).status_code == 404


@pytest.mark.parametrize(
    "path, code",
    [
        ("/subscriptions/{S}/resourceGroups/nogroup/providers/Microsoft.MachineLearningServices/workspaces/main/computes/cpu2", "ResourceGroupNotFound|ResourceNotFound|ParentResourceNotFound"),
        ("/subscriptions/{S}/resourceGroups/lapis/providers/Microsoft.MachineLearningServices/workspaces/nows/computes/cpu2", "ResourceNotFound|ParentResourceNotFound"),
    ],
)
def test_a_scope_that_is_missing_is_told(rest, path, code):
    path = path.replace("{S}", rest.environ["AZUREML_ARM_SUBSCRIPTION"])
    reply = rest("PUT", path, json={"properties": {"computeType": "AmlCompute", "properties": {"vmSize": "STANDARD_DS2_V2"}}})
    assert reply.status_code == 404
    assert arm_error(reply)["code"] in code.split("|")


@pytest.mark.parametrize("version", ["tomorrow", "2023", "", "2023-04-01;drop", None])
def test_a_malformed_api_version(rest, version):
    reply = rest("GET", "computes", version=None, params={} if version is None else {"api-version": version})
    error = arm_error(reply)
    assert reply.status_code == 400
    assert error["code"] in {"InvalidApiVersionParameter", "MissingApiVersionParameter"}


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"text"', b"\xff\xfe", b'{"properties": 5}', b"null", b'{"a":' * 10_000], ids=range(8))
def test_a_body_that_is_no_json_object(rest, body, unique):
    name = unique("nojson")
    reply = rest("PUT", f"environments/{name}/versions/1", data=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    arm_error(reply)
    assert rest("GET", f"environments/{name}/versions/1").status_code == 404


def test_a_body_over_the_limit(rest, unique):
    name = unique("big")
    body = json.dumps({"properties": {"image": "x" * (5 << 20)}})
    reply = rest("PUT", f"environments/{name}/versions/1", data=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 413
    assert arm_error(reply)["message"]
    assert rest("GET", f"environments/{name}/versions/1").status_code == 404


def raw(rest):
    """A connection that sends paths as they are given."""
    address = urllib.parse.urlsplit(rest.base)
    context = ssl.create_default_context(cafile=rest.environ["REQUESTS_CA_BUNDLE"])
    return http.client.HTTPSConnection(address.hostname, address.port, context=context)


@pytest.mark.parametrize("name", ["a b", "%2e%2e", "..%2f..", "x" * 300, "a%00b", "ü", "-", "a%3Fb", ".."])
def test_a_name_that_is_none(rest, name):
    # Not through requests, which tidies paths up.
    connection = raw(rest)
    body = json.dumps({"location": "local", "properties": {"computeType": "AmlCompute", "properties": {"vmSize": "STANDARD_DS2_V2"}}})
    connection.request(
        "PUT", f"{rest.scope}/computes/{urllib.parse.quote(name, safe='%')}?api-version=2023-08-01-preview", body,
        {"Authorization": f"Bearer {rest.token}", "Content-Type": "application/json"},
    )
    reply = connection.getresponse()
    assert 400 <= reply.status < 500, reply.read()


class TestTokens:
    def refused(self, rest, token):
        reply = rest("GET", "computes", token=token)
        assert reply.status_code == 401
        assert "WWW-Authenticate" in reply.headers
        arm_error(reply)
        assert rest("PUT", "computes/sneaked", token=token, json={"properties": {"computeType": "AmlCompute"}}).status_code == 401
        assert rest("GET", "computes/sneaked").status_code == 404
        history = rest("GET", f"/history/v1.0{rest.scope}/runs/x", token=token, version=None)
        assert history.status_code in (401, 403)

    def test_none(self, rest):
        reply = rest("GET", "computes", headers={"Authorization": None})
        assert reply.status_code == 401 and "WWW-Authenticate" in reply.headers

    def test_garbage(self, rest):
        self.refused(rest, "garbage")

    def test_forged(self, rest):
        head, body, signature = rest.token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        claims["exp"] += 1_000_000
        forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        self.refused(rest, f"{head}.{forged}.{signature}")

    def test_unsigned(self, rest):
        _, body, _ = rest.token.split(".")
        none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
        self.refused(rest, f"{none}.{body}.")

    def test_for_another_audience(self, rest):
        # Not handing one out at all is as good.
        try:
            token = rest.sign_in("https://example.com/.default")
        except requests.HTTPError as err:
            assert 400 <= err.response.status_code < 500 and err.response.json()["error"]
        else:
            self.refused(rest, token)


class TestUploads:
    @pytest.fixture
    def container(self, rest):
        """A container with a signature good for it, as the SDK gets them."""
        store = rest("GET", "datastores/workspaceblobstore", version="2024-10-01-preview").json()["properties"]
        sas = rest("POST", "datastores/workspaceblobstore/listSecrets", version="2024-10-01-preview",
                   json={"expirableSecret": True, "expireAfterHours": 1}).json()["sasToken"]
        return f"/{store['containerName']}", sas

    def call(self, rest, method, path, sas, body=None, **headers):
        return rest.session.request(
            method, f"{rest.base}{path}?{sas}", data=body, headers={"x-ms-version": "2021-12-02", "x-ms-blob-type": "BlockBlob", **headers}
        )

    def test_one_that_is_cut_leaves_nothing(self, rest, container, unique):
        root, sas = container
        path = f"{root}/{unique('cut')}.bin"
        connection = raw(rest)
        connection.putrequest("PUT", f"{path}?{sas}")
        for name, value in {"x-ms-version": "2021-12-02", "x-ms-blob-type": "BlockBlob", "Content-Length": "1000000"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"x" * 500_000)
        connection.sock.close()
        time.sleep(0.5)
        gone = self.call(rest, "HEAD", path, sas)
        assert gone.status_code == 404 and gone.headers["x-ms-error-code"] == "BlobNotFound"

    def test_a_signature_that_is_forged(self, rest, container, unique):
        root, sas = container
        forged = sas.replace("sig=", "sig=A")
        reply = self.call(rest, "PUT", f"{root}/{unique('forged')}", forged, b"x")
        assert reply.status_code == 403 and reply.headers["x-ms-error-code"] == "AuthenticationFailed"
        assert self.call(rest, "PUT", f"{root}/x", "", b"x").status_code in (401, 403)

    def test_a_signature_for_another_container(self, rest, container):
        _, sas = container
        reply = self.call(rest, "PUT", "/azureml-elsewhere/x", sas, b"x")
        assert reply.status_code in (403, 404)

    @pytest.mark.parametrize("path", ["a/../../../etc/passwd", "..%2f..%2fkeys", "a/..", "../x", "a//../b", "a%00b"])
    def test_a_path_out_of_the_container(self, rest, container, path):
        root, sas = container
        connection = raw(rest)
        connection.request("PUT", f"{root}/{path}?{sas}", body=b"x", headers={"x-ms-version": "2021-12-02", "x-ms-blob-type": "BlockBlob"})
        assert 400 <= connection.getresponse().status < 500
        data = os.environ["LAPIS_DATA"]
        assert not os.path.exists(os.path.join(data, "x")) and not os.path.exists(os.path.join(data, "keys", "x"))

    def test_a_block_list_of_blocks_that_never_came(self, rest, container, unique):
        root, sas = container
        path = f"{root}/{unique('blocks')}"
        body = '<?xml version="1.0"?><BlockList><Latest>AAAA</Latest></BlockList>'
        reply = self.call(rest, "PUT", path, sas + "&comp=blocklist", body)
        assert reply.status_code == 400 and reply.headers["x-ms-error-code"] == "InvalidBlockList"
        assert self.call(rest, "HEAD", path, sas).status_code == 404

    def test_a_blob_that_is_there_is_not_overwritten_unasked(self, rest, container, unique):
        root, sas = container
        path = f"{root}/{unique('kept')}"
        assert self.call(rest, "PUT", path, sas, b"first").status_code == 201
        again = self.call(rest, "PUT", path, sas, b"second", **{"If-None-Match": "*"})
        assert again.status_code == 409 and again.headers["x-ms-error-code"] == "BlobAlreadyExists"
        assert self.call(rest, "GET", path, sas).content == b"first"


def test_a_strange_host_is_not_ours(rest):
    reply = rest("GET", "computes", headers={"Host": "evil.example.com"})
    assert reply.status_code == 421


def test_another_workspace_shares_nothing(rest, unique, environment):
    name = unique("second")
    base = rest.scope.rsplit("/", 1)[0]
    made = rest("PUT", f"{base}/{name}", version="2024-10-01-preview", json={"location": "local", "properties": {"friendlyName": "second"}})
    assert made.status_code in (200, 201, 202), made.text
    deadline = time.monotonic() + 10
    while rest("GET", f"{base}/{name}").json()["properties"].get("provisioningState") != "Succeeded" and time.monotonic() < deadline:
        time.sleep(0.1)
    theirs = f"{base}/{name}"
    assert rest("GET", f"{theirs}/environments/refusals/versions/1").status_code == 404
    stores = {w: rest("GET", f"{w}/datastores/workspaceblobstore").json()["properties"]["containerName"] for w in (rest.scope, theirs)}
    assert len(set(stores.values())) == 2
    error = arm_error(rest("PUT", f"{theirs}/jobs/{unique('thief')}", json=job(environmentId=environment)))
    assert "refusals" in error["message"] or "workspace" in error["message"]
    assert rest("DELETE", theirs).status_code in (200, 202, 204)
    deadline = time.monotonic() + 10
    while rest("GET", theirs).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rest("GET", theirs).status_code == 404

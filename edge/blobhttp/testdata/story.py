"""What the Azure ML SDK does with its storage, by the same client library.

Usage: story.py ACCOUNT_URL CONTAINER SAS
"""
import hashlib
import io
import os
import sys

from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.core import MatchConditions
from azure.storage.blob import BlobBlock, BlobServiceClient, ContainerClient, ContentSettings

url, name, sas = sys.argv[1:4]
service = BlobServiceClient(url, credential=sas)
container = service.get_container_client(name)


def raises(kind, code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as e:
        assert e.error_code == code, (e.error_code, code)
        return
    raise AssertionError(f"{call} did not raise {kind}")


# the container, as the SDK meets it
assert container.exists()
raises(ResourceExistsError, "ContainerAlreadyExists", container.create_container)

# 70 MB in blocks, sent in parallel; down in parallel ranges
seed = os.urandom(1 << 20)
big = b"".join(hashlib.sha256(seed + bytes([i])).digest() * 32768 for i in range(70))
blob = container.get_blob_client("LocalUpload/abc/src/big file ü.bin")
raises(ResourceNotFoundError, "BlobNotFound", blob.get_blob_properties)
assert not blob.exists()
blob.upload_blob(big, max_concurrency=8, metadata={"Upload_Status": "started"}, content_settings=ContentSettings(content_type="image/png"))
committed, uncommitted = blob.get_block_list("all")
assert len(committed) > 10 and not uncommitted, (committed, uncommitted)
assert blob.download_blob(max_concurrency=8).readall() == big
assert blob.download_blob(offset=33554431, length=4194306).readall() == big[33554431 : 33554431 + 4194306]
assert b"".join(blob.download_blob().chunks()) == big
properties = blob.get_blob_properties()
assert properties.size == len(big) and properties.content_settings.content_type == "image/png", properties
assert properties.metadata == {"upload_status": "started"}, properties.metadata

# conditions
raises(ResourceExistsError, "BlobAlreadyExists", blob.upload_blob, b"x")
raises(ResourceExistsError, "BlobAlreadyExists", blob.upload_blob, big)
small = container.get_blob_client("LocalUpload/abc/src/a.txt")
etag = small.upload_blob(b"one")["etag"]
small.upload_blob(b"two", overwrite=True)
raises(ResourceModifiedError, "ConditionNotMet", small.upload_blob, b"three", overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
assert small.download_blob().readall() == b"two"

# checked content
small.upload_blob(b"checked", overwrite=True, validate_content=True)
assert small.download_blob(validate_content=True).readall() == b"checked"

# metadata and headers
small.set_blob_metadata({"upload_status": "completed", "name": "n", "version": "1"})
small.set_http_headers(ContentSettings(content_type="text/plain", content_encoding="identity"))
properties = small.get_blob_properties()
assert properties.metadata == {"upload_status": "completed", "name": "n", "version": "1"}, properties.metadata
assert properties.content_settings.content_type == "text/plain"

# the empty blob: the client asks for a range first and takes 416 for an answer
empty = container.get_blob_client("LocalUpload/abc/src/empty")
empty.upload_blob(b"")
assert empty.download_blob().readall() == b""
assert empty.get_blob_properties().size == 0

# a stream whose length is not known
stream = container.get_blob_client("stream")
stream.upload_blob(iter([b"a" * 1000, b"b" * 5_000_000]))
assert stream.download_blob().readall() == b"a" * 1000 + b"b" * 5_000_000

# blocks by hand
hand = container.get_blob_client("hand")
for i in (2, 0, 1):
    hand.stage_block(f"{i:05d}", f"part {i};".encode())
hand.commit_block_list([BlobBlock(f"{i:05d}") for i in range(3)])
assert hand.download_blob().readall() == b"part 0;part 1;part 2;"
raises(HttpResponseError, "InvalidBlockList", hand.commit_block_list, [BlobBlock("99999")])

# listing
for i in range(25):
    container.upload_blob(f"many/{i % 3}/{i:03d}", b"x", metadata={"i": str(i)})
assert [b.name for b in container.list_blobs(name_starts_with="many/", results_per_page=4)] == sorted(f"many/{i % 3}/{i:03d}" for i in range(25))
listed = {b.name: b for b in container.list_blobs(name_starts_with="many/1", include="metadata")}
assert listed["many/1/001"].metadata == {"i": "1"} and listed["many/1/001"].size == 1, listed["many/1/001"]
walked = [b.name for b in container.walk_blobs(name_starts_with="many/", results_per_page=2)]
assert walked == ["many/0/", "many/1/", "many/2/"], walked
assert [b.name for b in container.walk_blobs(name_starts_with="LocalUpload/abc/src/")] == sorted(["LocalUpload/abc/src/a.txt", "LocalUpload/abc/src/big file ü.bin", "LocalUpload/abc/src/empty"])

# copies within the account
copy = container.get_blob_client("copy")
assert copy.start_copy_from_url(small.url)["copy_status"] == "success"
assert copy.download_blob().readall() == b"checked"
copy.upload_blob_from_url(hand.url, overwrite=True)
assert copy.download_blob().readall() == b"part 0;part 1;part 2;"

# deletion
small.delete_blob()
raises(ResourceNotFoundError, "BlobNotFound", small.delete_blob)

# a signature that is not ours
bad = ContainerClient.from_container_url(f"{url}/{name}?{sas[:-4]}AAAA")
raises(ClientAuthenticationError, "AuthenticationFailed", bad.get_blob_client("hand").download_blob)
print("story told")

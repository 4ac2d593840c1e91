"""Real object stores on loopback: moto's server, which checks signatures, and s3rver, written by others."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import requests
from node import LOOPBACK, free_ports
from patience import PATIENCE

BUCKET = "pictures"
REGION = "us-east-1"
S3RVER = "s3rver@3.7.1"


@dataclass(frozen=True)
class ObjectStore:
    """A running store with one bucket.

    Attributes:
        key, secret: of a user who may write to it.
    """

    port: int
    key: str
    secret: str

    def client(self, service: str = "s3") -> Any:
        """A client that is not ours."""
        return boto3.client(
            service,
            endpoint_url=f"http://{LOOPBACK}:{self.port}",
            region_name=REGION,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )

    def environ(self, port: int | None = None) -> dict[str, str]:
        """The usual variables, for the store itself or a proxy before it."""
        return {
            "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{port or self.port}",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """What is in the bucket."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


@contextmanager
def moto() -> Iterator[ObjectStore]:
    """moto's server in the mode in which it checks who asks."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    with _running(command, port):
        anybody = ObjectStore(port, "anybody", "anything")
        iam = anybody.client("iam")
        iam.create_user(UserName="node")
        made = iam.create_access_key(UserName="node")["AccessKey"]
        statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName="node", PolicyName="s3", PolicyDocument=policy)
        anybody.client().create_bucket(Bucket=BUCKET)
        answer = requests.post(f"http://{LOOPBACK}:{port}/moto-api/reset-auth", data="0", timeout=PATIENCE)
        assert answer.ok
        yield ObjectStore(port, made["AccessKeyId"], made["SecretAccessKey"])


@contextmanager
def s3rver(folder: Path) -> Iterator[ObjectStore]:
    """s3rver, installed into the folder by npm."""
    npm = shutil.which("npm")
    assert npm, "npm is missing"
    subprocess.run(
        [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", S3RVER],
        cwd=folder,
        check=True,
        timeout=3 * PATIENCE,
    )
    (port,) = free_ports(1)
    program = folder / "node_modules" / ".bin" / "s3rver"
    data = folder / "data"
    data.mkdir()
    command = [program, "-a", LOOPBACK, "-p", port, "-d", data, "--configure-bucket", BUCKET, "--silent"]
    with _running([str(part) for part in command], port):
        yield ObjectStore(port, "S3RVER", "S3RVER")


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline
            try:
                requests.get(f"http://{LOOPBACK}:{port}/", timeout=PATIENCE)
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)

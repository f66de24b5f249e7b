"""Real servers on loopback that data are brought from: nginx, object stores, Python's own; and a line that breaks."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import boto3
import pytest

from tests.trainer.ranks import free_port

NGINX = """
worker_processes 1; daemon off; master_process off; pid {top}/nginx.pid; error_log {top}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log {top}/access.log; client_body_temp_path {top}/body; proxy_temp_path {top}/proxy;
  fastcgi_temp_path {top}/fastcgi; uwsgi_temp_path {top}/uwsgi; scgi_temp_path {top}/scgi;
  server {{
    listen 127.0.0.1:{port}; root {files}; autoindex on;
    location /private/ {{ auth_basic "x"; auth_basic_user_file {top}/users; }}
    location /silent/ {{ autoindex off; }}
  }}
}}
"""

GATE = """
worker_processes 1; daemon off; master_process off; pid {top}/nginx.pid; error_log {top}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {top}/body; proxy_temp_path {top}/proxy; client_max_body_size 64m;
  fastcgi_temp_path {top}/fastcgi; uwsgi_temp_path {top}/uwsgi; scgi_temp_path {top}/scgi;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port};
    location ~ ^/token/(?<who>[a-z]+)$ {{
      return 200 '{{"access_token": "$who", "token_type": "Bearer", "expires_in": 3600}}';
    }}
    location / {{
      if ($http_authorization = "") {{ return 401 '{{"error": {{"code": 401, "message": "Anonymous caller"}}}}'; }}
      if ($http_authorization != "Bearer reader") {{
        return 403 '{{"error": {{"code": 403, "message": "no access"}}}}';
      }}
      if ($host = localhost) {{ set $limit_rate 2m; }}
      proxy_pass http://127.0.0.1:{store}; proxy_set_header Host $http_host;
    }}
  }}
}}
"""


@contextmanager
def nginx(files: Path, top: Path) -> Iterator[str]:
    """The address of a server that lists `files`; of its folder `silent` it lists nothing."""
    port = free_port()
    top.mkdir(exist_ok=True)
    (top / "users").write_text("me:{PLAIN}word\n")
    with _nginx(NGINX.format(top=top, files=files, port=port), top, port) as address:
        yield address


@contextmanager
def _nginx(text: str, top: Path, port: int) -> Iterator[str]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs nginx (package nginx-light)")
    top.mkdir(exist_ok=True)
    (top / "nginx.conf").write_text(text)
    with _running([program, "-e", f"{top}/error.log", "-c", f"{top}/nginx.conf"], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def plain(files: Path) -> Iterator[str]:
    """The address of Python's own server: it lists folders, and sends files whole or not at all."""
    port = free_port()
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(files)]
    with _running(argv, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def s3() -> Iterator[str]:
    """The endpoint of an S3 server."""
    port = free_port()
    argv = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    with _running([*argv, "-H", "127.0.0.1", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def private(endpoint: str, bucket: str) -> Iterator[tuple[str, str]]:
    """An S3 server where nobody may do anything meanwhile, but who signs with the key that is given may read the
    bucket."""
    places = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    allowed = {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": places}
    who, keys = f"reader-{time.monotonic_ns()}", {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    with closing(boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1", **keys)) as iam:
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.create_user(UserName=who)
        iam.put_user_policy(UserName=who, PolicyName="read", PolicyDocument=policy)
        key = iam.create_access_key(UserName=who)["AccessKey"]
    _asks_nobody(endpoint, 0)
    try:
        yield key["AccessKeyId"], key["SecretAccessKey"]
    finally:
        _asks_nobody(endpoint, float("inf"))


def _asks_nobody(endpoint: str, requests: float) -> None:
    """Of how many requests from now on the server does not ask who sends them."""
    told = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=str(requests).encode(), method="POST")
    told.add_header("Content-Type", "application/octet-stream")
    with urllib.request.urlopen(told, timeout=20):
        pass


@contextmanager
def gs(top: Path, bucket: str) -> Iterator[tuple[str, str]]:
    """Two addresses of a Google Cloud Storage server with a bucket: one where everybody may do everything, and one that
    lets in who has the token `reader`, gives any token at /token/NAME, and is slow where it is called localhost."""
    store, port = free_port(), free_port()
    argv = [sys.executable, "-m", "gcp_storage_emulator", "start", "-H", "127.0.0.1", "--port", str(store), "-M", "-q"]
    conf = GATE.format(top=top, port=port, store=store)
    with _running([*argv, "--default-bucket", bucket], store), _nginx(conf, top, port) as gate:
        yield f"http://127.0.0.1:{store}", gate


@contextmanager
def azure(account: str, key: str) -> Iterator[str]:
    """The address of an Azure Blob server with one account."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("needs Azurite (npm install -g azurite)")
    port, env = free_port(), {**os.environ, "AZURITE_ACCOUNTS": f"{account}:{key}"}
    # The client's version of the protocol is newer than the server's.
    argv = [program, "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    with _running([*argv, "--silent"], port, env):
        yield f"http://127.0.0.1:{port}/{account}"


def requests_of(top: Path, after: int = 0, wanted: str = "", count: int = 0) -> list[str]:
    """What nginx was asked for so far, beyond the first `after`, with `wanted` in it: at least `count`, as it writes a
    request down when it has ended."""
    deadline = time.monotonic() + 20
    while True:
        found = [row for row in (top / "access.log").read_text().splitlines()[after:] if wanted in row]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@contextmanager
def _running(argv: list[str], port: int, env: Mapping[str, str] | None = None) -> Iterator[None]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert process.poll() is None, f"{argv} ended with {process.returncode}"
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


class Line:
    """A connection to a server that can break: each of the first connections is cut, or goes silent, after so many
    bytes of answer. It may be slow."""

    def __init__(self, address: str, cuts: list[int], goes_silent: bool = False, bytes_per_s: float = math.inf) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._server, self._cuts, self._goes_silent = (host, int(port)), list(cuts), goes_silent
        self._bytes_per_s = bytes_per_s
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.broken = 0
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        left = self._cuts.pop(0) if self._cuts else None
        with client, socket.create_connection(self._server) as server, suppress(OSError):
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            while piece := server.recv(1 << 16):
                if left is not None and len(piece) >= left:
                    client.sendall(piece[:left])
                    self.broken += 1
                    if self._goes_silent:
                        self._over.wait(60)
                    break
                left = None if left is None else left - len(piece)
                client.sendall(piece)
                time.sleep(len(piece) / self._bytes_per_s)
            client.shutdown(socket.SHUT_RDWR)  # closing alone says nothing while the pump reads from it


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)


def put(endpoint: str, bucket: str, name: str, content: bytes) -> None:
    """An object, by plain HTTP: the server asks nobody who he is."""
    for path, body in ((bucket, b""), (f"{bucket}/{name}", content)):
        request = urllib.request.Request(f"{endpoint}/{path}", data=body, method="PUT")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request")
        request.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(request, timeout=20):
            pass

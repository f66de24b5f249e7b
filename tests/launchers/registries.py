"""A registry of the tests' own on loopback, and tiny images to put into it."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import socket
import subprocess
import tarfile
import time
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

USER, PASSWORD = "lab", "a secret word"
HTPASSWD = "lab:$2b$04$ySwvUWxtU5/0/G9NIK1Z/OmPn8BC84aRABD6d62Mw5fLQZED65RQy\n"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FILES = {
    "bin/sh": "/bin/dash",
    "lib64/ld-linux-x86-64.so.2": "/lib64/ld-linux-x86-64.so.2",
    "lib/x86_64-linux-gnu/libc.so.6": "/lib/x86_64-linux-gnu/libc.so.6",
}


@dataclasses.dataclass
class Registry:
    """Debian's docker-registry, running."""

    folder: Path
    private: bool
    process: subprocess.Popen[bytes] | None = None
    host: str = ""

    def start(self) -> Registry:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        self.folder.mkdir()
        (self.folder / "htpasswd").write_text(HTPASSWD)
        auth = {"auth": {"htpasswd": {"realm": "lab", "path": str(self.folder / "htpasswd")}}} if self.private else {}
        storage = {"filesystem": {"rootdirectory": str(self.folder / "data")}}
        config = {"version": 0.1, "storage": storage, "http": {"addr": self.host}, **auth}
        (self.folder / "config.yml").write_text(json.dumps(config))
        with (self.folder / "log").open("wb") as log:
            argv = ["docker-registry", "serve", str(self.folder / "config.yml")]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        for _ in range(200):
            try:
                self.ask("GET", "/v2/")
                return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)

    def ask(self, method: str, path: str, data: bytes | None = None, kind: str = "application/octet-stream") -> Any:
        url = path if "://" in path else f"http://{self.host}{path}"
        request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": kind})
        request.add_header("Authorization", f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.headers

    def credentials(self, path: Path) -> Path:
        """A file as `docker login` writes it."""
        auth = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        path.write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))
        return path

    def push(self, name: str, tag: str, word: str = "", architecture: str = "amd64", env: tuple[str, ...] = ()) -> str:
        """An image that holds a shell and a file with a word, with these variables; its digest."""
        return self.push_layer(name, tag, _layer(word, 0xB7 if architecture == "arm64" else 0x3E), architecture, env)

    def push_layer(
        self, name: str, tag: str, raw: bytes, architecture: str = "amd64", env: tuple[str, ...] = ()
    ) -> str:
        """An image of one layer, a tar; its digest."""
        layer = gzip.compress(raw, mtime=0)
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin", *env], "Cmd": ["/bin/sh"], "WorkingDir": "/app"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(raw)]},
        }
        text = json.dumps(config).encode()
        kinds = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
        parts = [
            {"mediaType": kind, "digest": self._blob(name, data), "size": len(data)}
            for kind, data in zip(kinds, (text, layer), strict=True)
        ]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
        return self.put(name, tag, manifest)

    def push_sif(self, name: str, tag: str, sif: bytes) -> str:
        """A SIF as an artifact, and a text that somebody has added to it; its digest."""
        kinds = ("application/vnd.oci.empty.v1+json", "application/vnd.sylabs.sif.layer.v1.sif", "text/plain")
        config, *layers = (
            {"mediaType": kind, "digest": self._blob(name, data), "size": len(data)}
            for kind, data in zip(kinds, (b"{}", sif, b"what it is"), strict=True)
        )
        return self.put(name, tag, {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})

    def put(self, name: str, tag: str, manifest: dict[str, Any]) -> str:
        data = json.dumps(manifest).encode()
        self.ask("PUT", f"/v2/{name}/manifests/{tag}", data, str(manifest["mediaType"]))
        return _digest(data)

    def put_index(self, name: str, tag: str, **digests: str) -> str:
        """An index: architecture -> digest of a manifest that is there."""
        entries = [
            {"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": a}}
            for a, digest in digests.items()
        ]
        return self.put(name, tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})

    def _blob(self, name: str, data: bytes) -> str:
        place = self.ask("POST", f"/v2/{name}/blobs/uploads/", b"")["Location"]
        self.ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={_digest(data)}", data)
        return _digest(data)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _layer(word: str, machine: int) -> bytes:
    """Apptainer looks into the header of /bin/sh (byte 18) for what an image is for."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in {**{k: Path(v).read_bytes() for k, v in FILES.items()}, "word": word.encode()}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            data = data[:18] + bytes([machine]) + data[19:] if name == "bin/sh" else data
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()

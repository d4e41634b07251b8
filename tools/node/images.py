"""Images made on this machine, so that a node needs no registry: one static busybox, as a sandbox and as the pause.

Must not contain more than one program: the operator's image is built by `make image`.
"""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from node.configuration import PAUSE, SANDBOX

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
PASSWORDS = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
WAIT = ("/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done")


def write(folder: Path, busybox: Path) -> list[Path]:
    """Write both images as OCI archives, and return them."""
    layer = _layer(busybox)
    return [
        _archive(folder / "pause.tar", PAUSE, layer, entrypoint=WAIT, user="65535:65535"),
        _archive(folder / "busybox.tar", SANDBOX, layer, entrypoint=(), user=""),
    ]


def _layer(busybox: Path) -> bytes:
    """Return the file system: busybox under all of its names, and the folders that programs expect."""
    names = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True).stdout.split()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, mode in {
            "bin": 0o755,
            "etc": 0o755,
            "home": 0o755,
            "tmp": 0o1777,
            "proc": 0o555,
            "sys": 0o555,
        }.items():
            archive.addfile(_entry(name, tarfile.DIRTYPE, mode))
        program = busybox.read_bytes()
        archive.addfile(_entry("bin/busybox", tarfile.REGTYPE, 0o755, len(program)), io.BytesIO(program))
        for name in sorted(set(names) - {"busybox"}):
            link = _entry(f"bin/{name}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            archive.addfile(link)
        archive.addfile(_entry("etc/passwd", tarfile.REGTYPE, 0o644, len(PASSWORDS)), io.BytesIO(PASSWORDS.encode()))
    return content.getvalue()


def _entry(name: str, kind: bytes, mode: int, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry


def _archive(path: Path, name: str, layer: bytes, *, entrypoint: Sequence[str], user: str) -> Path:
    """Write an image of one layer, as the OCI image layout says."""
    settings = {"Env": ["PATH=/bin"], "Entrypoint": list(entrypoint), "Cmd": [] if entrypoint else ["sh"], "User": user}
    config = _json(
        {
            "architecture": MACHINES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _media("manifest.v1+json"),
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar", layer)],
        }
    )
    named = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [_descriptor("manifest.v1+json", manifest) | {"annotations": named}]}
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    files |= {f"blobs/sha256/{_digest(each).partition(':')[2]}": each for each in (layer, config, manifest)}
    with tarfile.open(path, "w") as archive:
        for file, content in files.items():
            archive.addfile(_entry(file, tarfile.REGTYPE, 0o644, len(content)), io.BytesIO(content))
    return path


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _media(kind: str) -> str:
    return f"application/vnd.oci.image.{kind}"


def _descriptor(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": _media(kind), "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

"""The certificates of a cluster with a real node, made by openssl.

The API server's own ones know only the loopback interface, and pods reach it by other addresses. They have the
extensions that Python demands since 3.13 (VERIFY_X509_STRICT). Must not be used outside of this machine.
"""

import subprocess
from pathlib import Path

from node.needs import NodeError, program

DAYS = "30"
AUTHORITY = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash")
NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def make(folder: Path, addresses: tuple[str, ...]) -> None:
    """Write what the API server serves with, and what it shows to the kubelet.

    Args:
        folder: The API server's folder of certificates: it makes none if apiserver.crt and apiserver.key are there.
        addresses: The addresses of the API server.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in ("authority", "kubelet-authority"):
        extensions = [word for extension in AUTHORITY for word in ("-addext", extension)]
        files = ("-key", _new_key(folder, name), "-out", f"{folder / name}.crt")
        _openssl("req", "-x509", *files, "-days", DAYS, "-subj", f"/CN={name}", *extensions)
    alternatives = ",".join([*(f"IP:{each}" for each in addresses), *(f"DNS:{name}" for name in NAMES)])
    _sign(folder, "apiserver", "authority", "/CN=kube-apiserver", "serverAuth", f"subjectAltName={alternatives}")
    _sign(folder, "kubelet-client", "kubelet-authority", "/O=system:masters/CN=kube-apiserver", "clientAuth")
    served = folder / "apiserver.crt"  # what clients trust has to include its authority
    served.write_text(served.read_text() + (folder / "authority.crt").read_text())


def _sign(folder: Path, name: str, authority: str, subject: str, usage: str, *more: str) -> None:
    """Write a key and a certificate of it that an authority has signed."""
    request, extensions = folder / f"{name}.csr", folder / f"{name}.extensions"
    extensions.write_text(
        "\n".join(
            [
                "basicConstraints=critical,CA:FALSE",
                "subjectKeyIdentifier=hash",
                "authorityKeyIdentifier=keyid",
                f"extendedKeyUsage={usage}",
                *more,
            ]
        )
    )
    _openssl("req", "-new", "-key", _new_key(folder, name), "-out", str(request), "-subj", subject)
    signer = ("-CA", f"{folder / authority}.crt", "-CAkey", f"{folder / authority}.key", "-CAcreateserial")
    certificate = ("-out", f"{folder / name}.crt", "-extfile", str(extensions))
    _openssl("x509", "-req", "-in", str(request), *signer, *certificate, "-days", DAYS)


def _new_key(folder: Path, name: str) -> str:
    """Write a key in the format in which the API server also reads keys of service accounts, and return its path."""
    path = f"{folder / name}.key"
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    return path


def _openssl(*arguments: str) -> None:
    done = subprocess.run([str(program("openssl")), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NodeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")

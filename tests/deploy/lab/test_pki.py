import base64
import re
import ssl
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from deploy.lab import pki


def test_a_server_certificate_is_accepted_by_its_name_and_address(tmp_path: Path) -> None:
    authority = pki.Authority("test")
    certificate, key = authority.issue("whoami.example", ["198.19.10.80"])
    (tmp_path / "server.crt").write_bytes(certificate)
    (tmp_path / "server.key").write_bytes(key)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    client = ssl.create_default_context(cadata=authority.certificate.decode())
    for name in ("whoami.example", "198.19.10.80"):
        _handshake(client, server, name)


def test_the_authority_is_one_and_the_server_is_none() -> None:
    authority = pki.Authority("test")
    ca = x509.load_pem_x509_certificate(authority.certificate)
    server = x509.load_pem_x509_certificate(authority.issue("a.example")[0])
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert server.subject.rfc4514_string() == "CN=a.example"


def test_a_wireguard_key_pair_fits_together() -> None:
    pair = pki.wireguard_key()
    private = X25519PrivateKey.from_private_bytes(base64.b64decode(pair.private))
    assert base64.b64encode(private.public_key().public_bytes_raw()).decode() == pair.public


def test_the_static_key_has_openvpns_form() -> None:
    lines = pki.static_key().splitlines()
    assert lines[0] == "-----BEGIN OpenVPN Static key V1-----"
    assert lines[-1] == "-----END OpenVPN Static key V1-----"
    assert len(lines) == 18
    assert all(re.fullmatch("[0-9a-f]{32}", line) for line in lines[1:-1])


def test_private_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    pki.write_private(path, "first")
    pki.write_private(path, b"second")
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)]
    for _ in range(4):
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not sides

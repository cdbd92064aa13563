"""Until when certificates are valid, beside what cryptography says of them."""

import base64
import contextlib
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from control.certificates import valid_until

YEAR_2027 = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
KEYS = {
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


def certificate(until: datetime.datetime, key: str = "ec", names: int = 1) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge.example") for _ in range(names)])
    alternatives = [x509.DNSName(f"proxy-{number}.example.org") for number in range(200 * names)]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEYS[key].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(KEYS[key], hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("key", ["ec", "rsa"])
@pytest.mark.parametrize("year", [1991, 2026, 2049, 2050, 2345])
def test_it_is_what_the_certificate_says(key: str, year: int) -> None:
    until = datetime.datetime(year, 12, 24, 18, 30, 5, tzinfo=datetime.UTC)
    assert valid_until(certificate(until, key)) == until.timestamp()


def test_a_chain_ends_with_its_first() -> None:
    early, late = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2027, 2040))
    text = "a key may stand before it\n" + certificate(late) + certificate(early, names=3)
    assert valid_until(text) == early.timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="certificate"):
        valid_until(text)


@given(st.data())
def test_a_broken_one_is_refused_or_read(data: st.DataObject) -> None:
    whole = bytearray(_DER)
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    broken = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    pem = _pem(broken)
    with contextlib.suppress(ValueError):
        valid_until(pem)


def _pem(der: bytes) -> str:
    body = base64.b64encode(der).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


_DER = x509.load_pem_x509_certificate(certificate(YEAR_2027).encode()).public_bytes(serialization.Encoding.DER)

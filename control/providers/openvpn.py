"""An OpenVPN client's configuration for one server. Pure.

What stands here is fixed by the servers (architecture page: SHA512, AES-256-GCM, `verify-x509-name CN=<host>`) or keeps
the tunnel honest. The tunnel's device, address, routes, time-outs and pings are the exit's own business.
"""

from control.providers import Choice

AUTH_FILE = "auth.txt"
CA_FILE = "ca.crt"
TLS_AUTH_FILE = "ta.key"
CONFIG_FILE = "client.ovpn"

_TEMPLATE = """\
client
dev tun
proto {proto}
remote {address} {port}
nobind
persist-key
persist-tun
auth-user-pass {auth_file}
auth-retry none
auth SHA512
cipher AES-256-GCM
data-ciphers AES-256-GCM
tls-version-min 1.2
remote-cert-tls server
verify-x509-name CN={server}
ca {ca_file}
tun-mtu 1500
mssfix 1450
verb 3
"""


def render(choice: Choice, *, tls_auth: bool) -> bytes:
    """The text of client.ovpn; other files are named relative to it."""
    text = _TEMPLATE.format(
        proto="udp4" if choice.transport == "udp" else "tcp4-client",
        address=choice.address,
        port=choice.port,
        server=choice.server,
        auth_file=AUTH_FILE,
        ca_file=CA_FILE,
    )
    if tls_auth:
        text += f"tls-auth {TLS_AUTH_FILE} 1\n"
    return text.encode()

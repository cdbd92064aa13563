from ipaddress import ip_address, ip_network

from deploy.lab import world
from health import countries
from health.model import Protocol


def test_every_place_has_enough_servers_of_its_protocol() -> None:
    for country, place in world.PLACES.items():
        assert country == countries.normalise(country)
        # Control gives a server to one node at a time: one more, and a node can be replaced before it is stopped.
        assert len(world.egresses(country)) > place.nodes


def test_addresses_are_the_labs_own_and_used_once() -> None:
    uplink, wan = ip_network(world.UPLINK_V4), ip_network(world.WAN_V4)
    entries = [ip_address(server.entry) for server in world.SERVERS]
    others = [world.WHOAMI, world.API, world.WAN_V4_GATEWAY, *(place.where for place in world.PLACES.values())]
    egresses = [ip_address(address) for address in (*(server.egress for server in world.SERVERS), *others)]
    assert len(set(entries)) == len(entries)
    assert len(set(egresses)) == len(egresses)
    assert all(address in uplink for address in entries)
    assert all(address in wan for address in egresses)
    assert not any(address in ip_network(world.UPLINK_V4_DYNAMIC) for address in entries)
    assert uplink.subnet_of(ip_network(world.RANGE))
    assert wan.subnet_of(ip_network(world.RANGE))


def test_a_server_is_known_by_a_hardware_address_made_from_its_entry() -> None:
    server = world.SERVERS[0]
    assert server.mac == "02:42:c6:12:0a:0b"
    assert len({server.mac for server in world.SERVERS}) == len(world.SERVERS)


def test_the_three_protocols_are_there_on_nordvpns_ports() -> None:
    assert {server.protocol for server in world.SERVERS} == set(Protocol)
    assert {server.protocol: server.port for server in world.SERVERS} == {
        Protocol.WIREGUARD: 51820,
        Protocol.OPENVPN_UDP: 1194,
        Protocol.OPENVPN_TCP: 443,
    }


def test_one_name_resolves_differently_in_every_country() -> None:
    where = [tuple(world.answers(country)[world.WHERE_NAME]) for country in world.PLACES]
    assert len(set(where)) == len(world.PLACES)
    assert {tuple(world.answers(country)[world.WHOAMI_NAME]) for country in world.PLACES} == {(world.WHOAMI,)}

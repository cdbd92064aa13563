"""What runs *inside* the lab's server containers: VPN servers, the `whoami` origin, the NordVPN API stand-in.

Copied into the server image as it is and run there by Debian's own Python 3.11 and aiohttp, so nothing here may import
the rest of the project. What a container should be it reads from `/lab`, a directory of files that `lab up` writes.
"""

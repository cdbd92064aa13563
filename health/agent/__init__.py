"""What runs inside an exit container: PID 1 with the kill switch, the VPN program, and the unprivileged agent.

This package is copied into the exit image; of the rest of the project it needs nothing.
"""

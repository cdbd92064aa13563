"""Carries bytes: listen, read the client's handshake, choose a node, dial through it, relay."""

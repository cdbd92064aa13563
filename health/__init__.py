"""The shared floor: what a node is, its samples and scores, the Redis registry, and the agent beside each tunnel.

`gateway` and `control` build on this package; it imports neither.
"""

"""The lab: the product on real parts, on one machine, without credentials or Internet.

`fleet` says the order of things: a Docker Engine (`engine`), images, what the host's network needs (`hostnet`,
`leaks`), servers (`world` as data, `servers` as containers, `inside` what runs in them), then the product itself, kept
running by `supervisor`. `cli` is `vpnexit lab …`.
"""

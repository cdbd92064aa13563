"""`vpnexit doctor`: is this machine fit, and if not, how is it mended?

A check looks (thin I/O) and judges what it saw (pure). `examine` runs them all; `model` says what a check is.
"""

"""Names and times to live of what is in Redis; which key is what, the package says."""

PREFIX = "vx:1:"
EVENTS = PREFIX + "events"
SCORES = PREFIX + "scores"
SEQUENCE = PREFIX + "sequence"
SAMPLE_TTL_S = 5
COLLECTOR_TTL_S = 4
SCORE_TTL_S = 600
TROUBLES_TTL_S = 15

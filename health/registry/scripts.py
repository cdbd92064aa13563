"""What Redis does in one step for `health.registry`: Lua, run by the server between two commands of others.

Each says which KEYS and ARGV it takes and what it answers. The client asks again after a time-out, so each answers a
repetition of itself as it answered the first.
"""

LONGEST_LEASE_MS = 60_000  # health.config and control.config allow no longer one
# An end further away than the longest lease was set before the clock went back: who lives renews it in time, and who is
# dead must not lead for an hour.
_SHORTEN = f"""
local function shorten(ttl)
  if redis.call('PTTL', KEYS[1]) > {LONGEST_LEASE_MS} then redis.call('PEXPIRE', KEYS[1], ttl) end
end
"""
# Acquire or renew: ours or nobody's. KEYS lease; ARGV holder, ttl in ms. Answers 1, or 0 while it is somebody else's.
LEASE = (
    _SHORTEN
    + """
local holder = redis.call('GET', KEYS[1])
if holder == false or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
shorten(ARGV[2])
return 0
"""
)
# Give back what the holder still has. KEYS lease or claim; ARGV holder.
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
# Replace a versioned record only if its version is the expected one (0: not there yet). A record of another schema is
# a newer writer's and stays. KEYS record, index, events, sequence; ARGV version, record, name, event. Answers 0, or the
# stored version + 1.
PUT_VERSIONED = """
local stored = redis.call('GET', KEYS[1])
local version = 0
if stored then
  local ok, old = pcall(cjson.decode, stored)
  if not ok or type(old) ~= 'table' or old['schema'] ~= 1 then
    return redis.error_reply('ERR the stored record is of another version of this program')
  end
  version = old['version'] or 0
end
if stored == ARGV[2] then return 0 end
if version ~= tonumber(ARGV[1]) then return version + 1 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('INCR', KEYS[4])
redis.call('PUBLISH', KEYS[3], ARGV[4])
return 0
"""

# Lead a role for one term: renew the lease of the term held, or begin a new one where nobody leads. KEYS lease;
# ARGV term held, term to begin, ttl in ms. Answers the term that is ours now, or an empty string.
LEAD = (
    _SHORTEN
    + """
local term = redis.call('GET', KEYS[1])
if term == false then term = ARGV[2] end
if term ~= ARGV[1] and term ~= ARGV[2] then
  shorten(ARGV[3])
  return ''
end
redis.call('SET', KEYS[1], term, 'PX', ARGV[3])
return term
"""
)
# Take a slot and write its node's record in one step, if the slot's holder is the expected one (empty: nobody) or
# already this node. KEYS claim, node record, nodes, events, sequence; ARGV node id, expected holder, record, event.
CLAIM = """
local holder = redis.call('GET', KEYS[1]) or ''
if holder ~= ARGV[1] then
  if holder ~= ARGV[2] then return 0 end
  redis.call('SET', KEYS[1], ARGV[1])
  redis.call('SET', KEYS[2], ARGV[3])
  redis.call('SADD', KEYS[3], ARGV[1])
  redis.call('INCR', KEYS[5])
  redis.call('PUBLISH', KEYS[4], ARGV[4])
end
return 1
"""
# Replace a node's record only while its status is the expected one, and never by one that has not heard yet that the
# node is to retire. KEYS record, events, sequence; ARGV status, record, event.
ADVANCE = """
local old = redis.call('GET', KEYS[1])
if old == ARGV[2] then return 1 end
local stored = old and cjson.decode(old)
if not stored or stored['status'] ~= ARGV[1] then return 0 end
if (stored['retire'] or '') ~= '' and (cjson.decode(ARGV[2])['retire'] or '') == '' then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('INCR', KEYS[3])
redis.call('PUBLISH', KEYS[2], ARGV[3])
return 1
"""
# Replace a record only if it is the expected one to the byte (empty: not there). KEYS record, index, events, sequence;
# ARGV expected, record, name, event. Answers 1, or 0 where it is another one.
SWAP = """
local old = redis.call('GET', KEYS[1]) or ''
if old == ARGV[2] then return 1 end
if old ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('INCR', KEYS[4])
redis.call('PUBLISH', KEYS[3], ARGV[4])
return 1
"""
# Lower a pool and move one of its nodes in one step, so that no reconciler sees the one without the other.
# KEYS pool, node, events, pools, sequence; ARGV version, pool, status, node, event, country. Answers 1, 0 (the node
# moved on) or -1 - version.
RETIRE = """
local old = redis.call('GET', KEYS[1])
local node = redis.call('GET', KEYS[2])
if old == ARGV[2] and node == ARGV[4] then return 1 end
local version = 0
if old then version = cjson.decode(old)['version'] or 0 end
if version ~= tonumber(ARGV[1]) then return -1 - version end
if not node or cjson.decode(node)['status'] ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[4], ARGV[6])
redis.call('SET', KEYS[2], ARGV[4])
redis.call('INCR', KEYS[5])
redis.call('PUBLISH', KEYS[3], ARGV[5])
return 1
"""
# Tell scores that were written, with the number of this change. KEYS sequence; ARGV channel, scores (a JSON array).
TELL_SCORES = """
local sequence = redis.call('INCR', KEYS[1])
return redis.call('PUBLISH', ARGV[1], '{"schema":1,"sequence":' .. sequence .. ',"scores":' .. ARGV[2] .. '}')
"""
# Put a session on a node, if it is on none, on this one already (its expiry moves), or on the one to be replaced.
# KEYS session; ARGV pin, pin to be replaced, ttl in ms. Answers the pin that stands.
PIN = """
local pin = redis.call('GET', KEYS[1])
if pin and pin ~= ARGV[1] and pin ~= ARGV[2] then return pin end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
"""
# Settle what a worker relayed for a user this month, and renew its lease of the user's limits.
#
# Bytes are told as totals of the worker, so that telling them twice counts them once. `generation` names one life of
# the usage record. A worker that knew another one (Redis was emptied) tells the month's total it last saw (`seen`, the
# highest one told stands) and only what it had not settled by then; together that is the whole month again.
# A lease is a quarter of what is left; shares of the rate are max-min fair by demand, what nobody wants in equal parts.
# KEYS leases, usage; ARGV ask (JSON, see health.limits.Ask). Answers the fields of health.limits.Lease.
RENEW_LIMITS = """
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
local function stored(field) return tonumber(redis.call('HGET', KEYS[2], field) or '0') end

local generation = redis.call('HGET', KEYS[2], 'generation')
if not generation then
  generation = ask.member .. '@' .. text(now)
  redis.call('HSET', KEYS[2], 'generation', generation)
end
local own = ask.counted
local floor = stored('floor')
if generation ~= ask.generation then
  own = ask.unsettled
  floor = math.max(floor, ask.seen)
  redis.call('HSET', KEYS[2], 'floor', text(floor))
end
local sum = stored('sum') + own - stored(ask.member)
redis.call('HSET', KEYS[2], 'sum', text(sum), ask.member, text(own))
redis.call('EXPIRE', KEYS[2], ask.keep_s)
local total = floor + sum

local connections, open, rate, bytes, demands = 0, ask.open, 0, 0, {ask.demand}
local leases = redis.call('HGETALL', KEYS[1])
for i = 1, #leases, 2 do
  local lease = cjson.decode(leases[i + 1])
  if leases[i] == ask.worker then
    -- ours is about to be replaced
  elseif lease.ends <= now then
    redis.call('HDEL', KEYS[1], leases[i])
  else
    connections = connections + lease.connections
    open = open + lease.open
    rate = rate + lease.rate
    bytes = bytes + lease.bytes
    demands[#demands + 1] = lease.demand
  end
end
if ask.leave then
  redis.call('HDEL', KEYS[1], ask.worker)
  return {0, ask.max_connections - open, 0, #demands, 0, total, generation}
end

local function quarter(left) return math.max(0, math.ceil(left / 4)) end

table.sort(demands)
local rest, share = ask.bytes_per_second, 0
for i, demand in ipairs(demands) do
  local given = math.min(demand, rest / (#demands - i + 1))
  rest = rest - given
  if demand == ask.demand then share = given end
end
share = math.floor(math.max(0, math.min(share + rest / #demands, ask.bytes_per_second - rate)))

local left = ask.monthly_bytes - total - bytes
local volume = math.max(quarter(left), math.min(left, math.ceil(ask.monthly_bytes / 64)), 0)
local places = ask.open + quarter(ask.max_connections - connections - ask.open)
redis.call('HSET', KEYS[1], ask.worker, cjson.encode({schema = 1, ends = now + ask.ttl_ms, connections = places,
  open = ask.open, rate = share, demand = ask.demand, bytes = volume}))
redis.call('PEXPIRE', KEYS[1], ask.ttl_ms)
return {places, ask.max_connections - open, share, #demands, volume, total, generation}
"""

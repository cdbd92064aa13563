"""What Redis does in one step for `health.registry`: Lua, run by the server between two commands of others.

Each says which KEYS and ARGV it takes and what it answers. The client asks again after a time-out, so each answers a
repetition of itself as it answered the first.
"""

# Acquire or renew: ours or nobody's. KEYS lease; ARGV holder, ttl in ms. Answers 1, or 0 while it is somebody else's.
LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder == false or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0
"""
# Give back what the holder still has. KEYS lease or claim; ARGV holder.
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
# Replace a versioned record only if its version is the expected one (0: not there yet). A record of another schema is
# a newer writer's and stays. KEYS record, index, events; ARGV version, record, name, event. Answers 0, or the stored
# version + 1.
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
redis.call('PUBLISH', KEYS[3], ARGV[4])
return 0
"""

# Take a slot and write its node's record in one step, if the slot's holder is the expected one (empty: nobody) or
# already this node. KEYS claim, node record, nodes, events; ARGV node id, expected holder, record, event.
CLAIM = """
local holder = redis.call('GET', KEYS[1]) or ''
if holder ~= ARGV[1] then
  if holder ~= ARGV[2] then return 0 end
  redis.call('SET', KEYS[1], ARGV[1])
  redis.call('SET', KEYS[2], ARGV[3])
  redis.call('SADD', KEYS[3], ARGV[1])
  redis.call('PUBLISH', KEYS[4], ARGV[4])
end
return 1
"""
# Replace a node's record only while its status is the expected one. KEYS record, events; ARGV status, record, event.
ADVANCE = """
local old = redis.call('GET', KEYS[1])
if old == ARGV[2] then return 1 end
if not old or cjson.decode(old)['status'] ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PUBLISH', KEYS[2], ARGV[3])
return 1
"""
# Lower a pool and move one of its nodes in one step, so that no reconciler sees the one without the other.
# KEYS pool, node, events, pools; ARGV version, pool, status, node, event, country. Answers 1, 0 (the node moved on) or
# -1 - version.
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
redis.call('PUBLISH', KEYS[3], ARGV[5])
return 1
"""

"""What runs inside Redis: one Lua script an append, so that a batch is written whole or not at all.

Log times are microseconds; the first part of an entry's id is its log time. Every script begins with a write that
Redis refuses when it has no memory left, and Redis refuses nothing after the first write of a script: so it stops
before it has changed anything, or runs to its end.
"""

from __future__ import annotations

from typing import Final

_STAMPED: Final = """
local function next_time(stream, now)
  local last = 0
  if redis.call('EXISTS', stream) == 1 then
    local info = redis.call('XINFO', 'STREAM', stream)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then last = tonumber(string.match(info[i + 1], '^%d+')) end
    end
  end
  return math.max(tonumber(now), last + 1)
end

local function add(stream, at, record)
  redis.call('XADD', stream, string.format('%.0f-0', at), 'record', record)
end
"""

#: KEYS: the stream, a key an event id. ARGV: now, seconds an id is known, the records. Returns 1 for each new event.
APPEND_EVENTS: Final = (
    _STAMPED
    + """
local at, fresh = next_time(KEYS[1], ARGV[1]), {}
for i = 2, #KEYS do
  fresh[i - 1] = 0
  if redis.call('SET', KEYS[i], 1, 'NX', 'EX', ARGV[2]) then
    add(KEYS[1], at, ARGV[i + 1])
    at, fresh[i - 1] = at + 1, 1
  end
end
return fresh
"""
)

#: KEYS: the stream. ARGV: now, the records.
APPEND: Final = (
    _STAMPED
    + """
local at = next_time(KEYS[1], ARGV[1])
for i = 2, #ARGV do
  add(KEYS[1], at + i - 2, ARGV[i])
end
"""
)

#: KEYS: the stream, what of each writer is written. ARGV: now, the writer, the number before the first, the records.
APPEND_EXPOSURES: Final = (
    _STAMPED
    + """
local at, after = next_time(KEYS[1], ARGV[1]), tonumber(ARGV[3])
local written = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0)
for i = 4 + math.max(0, written - after), #ARGV do
  add(KEYS[1], at, ARGV[i])
  at = at + 1
end
redis.call('HSET', KEYS[2], ARGV[2], math.max(written, after + #ARGV - 3))
"""
)

#: KEYS: what of each writer is written, the sum of losses. ARGV: the writer, what it took. Returns its loss.
SETTLE_EXPOSURES: Final = """
local taken = tonumber(ARGV[2])
local written = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
local lost = math.max(0, taken - written)
redis.call('HSET', KEYS[1], ARGV[1], math.max(written, taken))
redis.call('INCRBY', KEYS[2], lost)
return lost
"""

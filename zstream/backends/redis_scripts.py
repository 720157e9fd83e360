"""What the Redis store does on the server: a Lua script for each atomic act.

Each begins with the same check: the store still is in the run that was opened, has at least what
it had, and nobody else took its lock, or nothing is done. `docs/backends.md` tells which keys there
are.
"""

from typing import Final

from zstream.backends.redis_link import Script

#: Events of one list of bodies.
BLOCK: Final = 128

#: ARGV: the run, and a last id that the store has reached; as the last of them, how many acts it
#: has seen, and the last word of the lock. An act is what readers rely on: a batch, a run's end.
_CHECKED: Final = """
local P = KEYS[1]
local seen = redis.call('HMGET', P, 'run', 'last', 'acts', 'lock')
local word = string.sub(seen[4] or '-', -16)
local function moved()
  local facts = {seen[1] or '-', seen[2] or '-', seen[3] or '0', word}
  return redis.error_reply('ZSTREAM ' .. table.concat(facts, ' '))
end
if seen[1] ~= ARGV[1] or tonumber(seen[2] or -1) < tonumber(ARGV[2])
  or tonumber(seen[3] or 0) < tonumber(ARGV[#ARGV - 1]) or word ~= ARGV[#ARGV]
then return moved() end
"""

#: ARGV also, behind its own: all of the lock. So what was sent over a connection that was given up
#: does nothing if it arrives after the lock was taken again.
_HELD: Final = """
if seen[4] ~= ARGV[#ARGV - 2] then return moved() end
"""

_BLOCKS: Final = f"""
local function block(id) return math.floor((id - 1) / {BLOCK}), (id - 1) % {BLOCK} end
local function rows(number) return string.format('%s:rows:%.0f', P, number) end
"""


def checked(text: str) -> Script:
    """A script behind the check that the store is still the one that was opened."""
    return Script(_CHECKED + text)


#: Try all that is done to a store, on keys of its own: a user who lacks a right must not learn of
#: it in the midst of a batch, because what a script has done by then stays done.
TRIAL: Final = Script("""
local name, other = KEYS[1] .. ':trial', KEYS[1] .. ':trial2'
redis.call('UNLINK', name, other)
redis.call('HSET', name, 'a', '1')
redis.call('HINCRBY', name, 'a', 1)
for _, command in ipairs({'HGET', 'HMGET', 'HEXISTS', 'HDEL'}) do redis.call(command, name, 'a') end
redis.call('HGETALL', name)
redis.call('RPUSH', name, 'a', 'b', 'c')
redis.call('LLEN', name)
redis.call('LINDEX', name, 0)
redis.call('LRANGE', name, 0, -1)
redis.call('LTRIM', name, 1, -1)
redis.call('LPOP', name)
redis.call('RENAME', name, other)
redis.call('DEL', other)
redis.call('SET', name, 'a')
for _, command in ipairs({'GET', 'TYPE', 'EXISTS'}) do redis.call(command, name) end
redis.call('GETRANGE', name, 0, 0)
redis.call('UNLINK', name)
""")

#: Begin a run, if nobody took the lock since it was looked at.
#: ARGV: the lock as it was ('' for none) and as it is to be, the run, the fields of a new store.
#: Reply: 1, or 0 if somebody was faster.
BEGIN: Final = Script("""
local P = KEYS[1]
if (redis.call('HGET', P, 'lock') or '') ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', P, 'schema') == 0 then
  redis.call('HSET', P, unpack(cmsgpack.unpack(ARGV[4])))
end
redis.call('HSET', P, 'lock', ARGV[2], 'run', ARGV[3])
redis.call('RPUSH', P .. ':openings', ARGV[3] .. ' ' .. redis.call('HGET', P, 'last'))
return 1
""")

#: Take the lock and begin no run. ARGV: as above, the lock as it was and as it is to be.
TAKE: Final = Script("""
if (redis.call('HGET', KEYS[1], 'lock') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'lock', ARGV[2])
return 1
""")

#: Take the lock again over another connection, a later one. ARGV also: its new text.
RELOCK: Final = checked("""
local function parts(text) return string.match(text, '^(%S+) (%d+)') end
local life, number = parts(seen[4])
local new, later = parts(ARGV[3])
if life == new and tonumber(number) > tonumber(later) then return moved() end
redis.call('HSET', P, 'lock', ARGV[3])
return 1
""")

#: Give the lock back. ARGV: all of it.
UNLOCK: Final = Script("""
if redis.call('HGET', KEYS[1], 'lock') == ARGV[1] then redis.call('HDEL', KEYS[1], 'lock') end
""")

#: The last id.
LAST: Final = checked("return seen[2]")

#: Append a batch. ARGV[2] is the id before it. ARGV also: the new last id; the arrival; a mark or
#: ''; then packed, or '' for nothing: bodies, what the index is made of, producers and filters
#: (id, row, id, row …), and what is forgotten of both. Reply: the number of this act.
APPEND: Final = checked(
    _HELD
    + _BLOCKS
    + """
if seen[2] ~= ARGV[2] then return moved() end
local arrival = math.max(tonumber(redis.call('HGET', P, 'arrival')), tonumber(ARGV[4]))
local acts = string.format('%.0f', tonumber(seen[3] or 0) + 1)
redis.call('HSET', P, 'last', ARGV[3], 'arrival', string.format('%.0f', arrival), 'acts', acts)
if ARGV[6] ~= '' then
  local bodies = cmsgpack.unpack(ARGV[6])
  local i, n, id = 1, #bodies, tonumber(ARGV[2]) + 1
  while i <= n do
    local number, used = block(id)
    local j = math.min(n, i + BLOCK - used - 1)
    redis.call('RPUSH', rows(number), unpack(bodies, i, j))
    id = id + j - i + 1
    i = j + 1
  end
  redis.call('RPUSH', P .. ':newest', ARGV[7])
end
if ARGV[5] ~= '' then redis.call('RPUSH', P .. ':marks', ARGV[5]) end
local function each(command, name, packed)
  if packed == '' then return end
  local fields = cmsgpack.unpack(packed)
  for i = 1, #fields, 1000 do
    redis.call(command, P .. name, unpack(fields, i, math.min(i + 999, #fields)))
  end
end
each('HSET', ':producers', ARGV[8])
each('HSET', ':filters', ARGV[9])
each('HDEL', ':producers', ARGV[10])
each('HDEL', ':filters', ARGV[11])
return tonumber(acts)
""".replace("BLOCK", str(BLOCK))
)

#: Drop the marks below the floor but for one; a thousand at once at the most.
_MARKS: Final = """
local function drop_marks(floor)
  local marks = P .. ':marks'
  for _ = 1, 1000 do
    local second = redis.call('LINDEX', marks, 1)
    if not second or tonumber(string.match(second, ' (%d+)')) > floor then return end
    redis.call('LPOP', marks)
  end
end
"""

#: Move the floor. ARGV also: the floor, at most the last id. Reply: the floors before and after.
TRIM: Final = checked(
    _HELD
    + _MARKS
    + """
local before = redis.call('HGET', P, 'floor')
local floor = math.min(tonumber(ARGV[3]), tonumber(seen[2]))
if floor <= tonumber(before) then return {before, before} end
redis.call('HSET', P, 'floor', string.format('%.0f', floor))
drop_marks(floor)
return {before, string.format('%.0f', floor)}
"""
)

#: Free lists of bodies. ARGV also: the numbers of the first one and of the end.
SWEEP: Final = checked(
    _BLOCKS
    + _MARKS
    + """
for number = tonumber(ARGV[3]), tonumber(ARGV[4]) - 1 do redis.call('UNLINK', rows(number)) end
redis.call('HSET', P, 'swept', ARGV[4])
drop_marks(tonumber(redis.call('HGET', P, 'floor')))
"""
)

#: The last id before a time. ARGV also: the time. Reply: an id.
ARRIVED: Final = checked("""
local since, marks = tonumber(ARGV[3]), P .. ':marks'
if since > tonumber(redis.call('HGET', P, 'arrival')) then return seen[2] end
local low, high = 0, redis.call('LLEN', marks)
while low < high do
  local middle = math.floor((low + high) / 2)
  local arrival = string.match(redis.call('LINDEX', marks, middle), '^(%d+)')
  if tonumber(arrival) <= since then low = middle + 1 else high = middle end
end
if low == 0 then return '0' end
return string.match(redis.call('LINDEX', marks, low - 1), ' (%d+)')
""")

#: Bodies. ARGV also: how many bytes, but for the first; the ids, packed.
#: Reply: their sizes, four bytes each, and the bodies, joined; -1 is the size of one that is gone.
BODIES: Final = checked(
    _BLOCKS
    + """
local ids, room = cmsgpack.unpack(ARGV[4]), tonumber(ARGV[3])
local bodies, sizes = {}, {}
local near, from, upto, most = {}, 0, -1, 4  -- neighbours that were read at once
for k = 1, #ids do
  local number, place = block(ids[k])
  if near.number ~= number or place < from or place > upto then
    from, upto = place, place
    local j = k + 1
    while ids[j] and j - k < most and block(ids[j]) == number do
      local _, other = block(ids[j])
      if other == upto + 1 then upto = other
      elseif other == from - 1 then from = other
      else break end
      j = j + 1
    end
    near = redis.call('LRANGE', rows(number), from, upto)
    near.number = number
  end
  local body = near[place - from + 1]
  if not body then
    sizes[k] = struct.pack('<i4', -1)
  else
    room = room - #body
    most = #body > 4096 and 1 or math.min(most * 2, 32)
    if k > 1 and room < 0 then break end
    bodies[#bodies + 1] = body
    sizes[k] = struct.pack('<i4', #body)
  end
end
return {table.concat(sizes), table.concat(bodies)}
"""
)

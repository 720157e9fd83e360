"""Lua scripts that write and read sealed runs of the Redis store; see `redis_runs`."""

from typing import Final

from zstream.backends.redis_scripts import checked

#: The length by which a hash's field says that its rows stand in a string of their own.
MARKED: Final = 5

#: Begin to make a run. ARGV also: its description. Reply: its number.
BEGIN_RUN: Final = checked("""
local number = redis.call('HINCRBY', P, 'next', 1)
redis.call('HSET', P .. ':unfinished', number, ARGV[3])
return number
""")

#: Write pieces of a run that is being made. ARGV also: its number; hashes (name, fields …) and
#: strings (name, text …), packed, with the names behind the run's own.
PUT: Final = checked("""
if redis.call('HEXISTS', P .. ':unfinished', ARGV[3]) == 0 then return moved() end
local base = P .. ':run:' .. ARGV[3] .. ':'
for _, each in ipairs(cmsgpack.unpack(ARGV[4])) do
  for i = 1, #each[2], 1000 do  -- of somebody's making they may be many
    redis.call('HSET', base .. each[1], unpack(each[2], i, math.min(i + 999, #each[2])))
  end
end
local texts = cmsgpack.unpack(ARGV[5])
for i = 1, #texts, 2 do redis.call('SET', base .. texts[i], texts[i + 1]) end
""")

#: The run is complete: from now on it is looked into, and the batches that it was made of are no
#: longer needed. ARGV also: its number, how many batches. Once more does nothing.
#: Reply: the number of this act, or of the last one.
END_RUN: Final = checked("""
local about = redis.call('HGET', P .. ':unfinished', ARGV[3])
if not about then return tonumber(seen[3]) end
redis.call('HSET', P .. ':runs', ARGV[3], about)
redis.call('HDEL', P .. ':unfinished', ARGV[3])
redis.call('LTRIM', P .. ':newest', ARGV[4], -1)
return redis.call('HINCRBY', P, 'acts', 1)
""")

#: A run is not to be looked into any more. ARGV also: its number.
RETIRE: Final = checked("""
local about = redis.call('HGET', P .. ':runs', ARGV[3])
if not about then return end
redis.call('HSET', P .. ':unfinished', ARGV[3], about)
redis.call('HDEL', P .. ':runs', ARGV[3])
""")

#: Free pieces of a run that is unfinished or retired. ARGV also: its number; names, packed; 1 if
#: these are the last of it.
FREE: Final = checked(f"""
local base = P .. ':run:' .. ARGV[3] .. ':'
for _, name in ipairs(cmsgpack.unpack(ARGV[4])) do
  if redis.call('TYPE', base .. name).ok == 'hash' then
    local fields = redis.call('HGETALL', base .. name)
    for i = 1, #fields, 2 do
      if #fields[i + 1] == {MARKED} then
        redis.call('UNLINK', base .. name .. '=' .. fields[i])
      end
    end
  end
  redis.call('UNLINK', base .. name)
end
if ARGV[5] == '1' then redis.call('HDEL', P .. ':unfinished', ARGV[3]) end
""")

#: Strings by their names. ARGV also: the names behind ``:run:``, packed.
PIECES: Final = checked("""
local found = {}
for k, name in ipairs(cmsgpack.unpack(ARGV[3])) do
  found[k] = redis.call('GET', P .. ':run:' .. name) or ''
end
return found
""")

#: Ranks of the rows that have one of a key's values. ARGV also, packed: the runs (number, buckets,
#: rows, from, to) and the values (crc32, name); the key's position; the most ranks of a value; 1
#: for the lowest of them, 0 for the highest.
#: Reply, for each run: up to, or from, which rank all are there; and the ranks, four bytes each.
RANKS: Final = checked(f"""
local runs, values = cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4])
local most, rising, reply = tonumber(ARGV[6]), ARGV[7] == '1', {{}}

local function rank(name, place)
  return (struct.unpack('<I4', redis.call('GETRANGE', name, place * 4, place * 4 + 3)))
end
local function place_of(name, count, rows, wanted)  -- of the first rank that is not below
  if wanted <= 0 then return 0 elseif wanted >= rows then return count end
  local low, high = 0, count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if rank(name, middle) < wanted then low = middle + 1 else high = middle end
  end
  return low
end

for k, run in ipairs(runs) do
  local base = P .. ':run:' .. run[1] .. ':' .. ARGV[5] .. ':'
  local rows, from, to, parts = run[3], run[4], run[5], {{}}
  local edge = rising and to or from
  for i = 1, #values, 2 do
    local bucket = base .. string.format('%.0f', values[i] % run[2])
    local found = redis.call('HGET', bucket, values[i + 1])
    if found and #found == {MARKED} then
      local name = bucket .. '=' .. values[i + 1]
      local count = struct.unpack('<I4', found)
      local first, stop = place_of(name, count, rows, from), place_of(name, count, rows, to)
      if stop - first > most then
        if rising then
          stop = first + most
          edge = math.min(edge, rank(name, stop))
        else
          first = stop - most
          edge = math.max(edge, rank(name, first))
        end
      end
      found = stop > first and redis.call('GETRANGE', name, first * 4, stop * 4 - 1)
    end
    if found then parts[#parts + 1] = found end
  end
  reply[k] = {{edge, table.concat(parts)}}
end
return reply
""")

#: How many rows have each of some keys' values, a row with several of them counted for each. ARGV
#: also, packed: the runs (number, and for each of the keys its buckets); the keys (position, values
#: as above). Reply: for each run the sums of the keys.
SIZES: Final = checked(f"""
local runs, terms, reply = cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4]), {{}}
for k, run in ipairs(runs) do
  local sums = {{}}
  for t, term in ipairs(terms) do
    local base, values, sum = P .. ':run:' .. run[1] .. ':' .. term[1] .. ':', term[2], 0
    for i = 1, #values, 2 do
      local bucket = base .. string.format('%.0f', values[i] % run[t + 1])
      local found = redis.call('HGET', bucket, values[i + 1])
      if found and #found == {MARKED} then
        sum = sum + struct.unpack('<I4', found)
      elseif found then
        sum = sum + #found / 4
      end
    end
    sums[t] = sum
  end
  reply[k] = sums
end
return reply
""")

#: Begin to make the index anew: what was made of another one is to be freed. ARGV also: for which
#: keys.
BEGIN_CHANGE: Final = checked("""
if redis.call('HGET', P, 'change') == ARGV[3] then return end
local made = redis.call('HGETALL', P .. ':changed')
for i = 1, #made, 2 do redis.call('HSET', P .. ':unfinished', made[i], made[i + 1]) end
redis.call('DEL', P .. ':changed')
redis.call('HSET', P, 'change', ARGV[3])
""")

#: A run of the index to come is complete. ARGV also: its number.
NOTE_CHANGED: Final = checked("""
local about = redis.call('HGET', P .. ':unfinished', ARGV[3])
if not about then return end
redis.call('HSET', P .. ':changed', ARGV[3], about)
redis.call('HDEL', P .. ':unfinished', ARGV[3])
""")

#: The index to come takes the place of the other one. ARGV also: the keys.
END_CHANGE: Final = checked("""
local runs, changed = P .. ':runs', P .. ':changed'
local old = redis.call('HGETALL', runs)
for i = 1, #old, 2 do redis.call('HSET', P .. ':unfinished', old[i], old[i + 1]) end
redis.call('DEL', runs, P .. ':newest')
if redis.call('EXISTS', changed) == 1 then redis.call('RENAME', changed, runs) end
redis.call('HSET', P, 'keys', ARGV[3])
redis.call('HDEL', P, 'change')
""")

#!lua flags=allow-oom
-- Removes entries from a stream and writes what they leave behind: all of it, or nothing.
-- It runs on a full Redis too, because it is what empties it.
--
-- KEYS  1 stream  2 dead letters  3 backfill stream  4 ledger  5 batches in a disk spool
--       6 message numbers  7 messages that wait for a dictionary  8 their index
-- ARGV  group; then lists, each led by its length: ids; letters (each a list of fields and values);
--       entries for the backfill stream (likewise); entries to be parked (likewise, each after what
--       the index says of it); ledger fields and increments;
--       agents and the ranges of their message numbers, merged where counts hold;
--       then the name of a batch and what happens to it: "" nothing, "put", "take";
--       then ledger fields and increments that hold only where a batch is taken that was put
-- Gives the ids that are settled already, by another consumer or by an earlier call whose reply
-- was lost; where there is one, nothing was done. `false` where letters, backfill and parked
-- entries were kept and nothing was counted: the group does not exist, as Redis lost its data and with it what
-- had been counted.
-- A batch that is taken from disk takes its entries from the stream too, if all are there still: its
-- process ended between writing it and settling them.
local at = 0
local function take()
    at = at + 1
    return ARGV[at]
end
local function list()
    local items = {}
    for i = 1, tonumber(take()) do
        items[i] = take()
    end
    return items
end
local function lists()
    local found = {}
    for i = 1, tonumber(take()) do
        found[i] = list()
    end
    return found
end

local group, ids = take(), list()
local letters, backfill, parked = lists(), lists(), lists()
local counts, sequences = list(), list()
local batch, what, taken = take(), take(), list()

local lost, pending, gone = false, {}, {}
for _, id in ipairs(ids) do
    local found = redis.pcall('XPENDING', KEYS[1], group, id, id, 1)
    if found.err then
        lost = true
        break
    end
    local place = #found > 0 and pending or gone
    place[#place + 1] = id
end
if #gone > 0 and what ~= 'take' then
    return gone
end

local was_put, counted = false, not lost
if what == 'put' and not lost then
    redis.call('HSET', KEYS[5], batch, 'put')
elseif what == 'take' then
    local state = redis.call('HGET', KEYS[5], batch)
    if state == 'taken' then
        return {batch}
    end
    was_put = state == 'put'
    -- Not put, and not all pending: whoever had its entries counts them, or Redis lost its data.
    counted = was_put or #pending > 0 and #gone == 0
    pending = counted and pending or {}
    redis.call('HSET', KEYS[5], batch, 'taken')
end

for i = 1, #pending, 1000 do
    local some = {unpack(pending, i, math.min(i + 999, #pending))}
    redis.call('XACK', KEYS[1], group, unpack(some))
    redis.call('XDEL', KEYS[1], unpack(some))
end
for _, fields in ipairs(letters) do
    redis.call('XADD', KEYS[2], '*', unpack(fields))
end
for _, fields in ipairs(backfill) do
    redis.call('XADD', KEYS[3], '*', unpack(fields))
end
for _, fields in ipairs(parked) do
    local id = redis.call('XADD', KEYS[7], '*', unpack(fields, 2))
    redis.call('HSET', KEYS[8], id, fields[1])
end
if not counted then
    return false
end
count(KEYS[4], counts, 1)
if was_put then
    count(KEYS[4], taken, 1)
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
for i = 1, #sequences, 2 do
    local agent, ranges = sequences[i], sequences[i + 1]
    local text = redis.call('HGET', KEYS[6], agent) or ''
    redis.call('HSET', KEYS[6], agent, merge_sequences(text, ranges, now_ms))
end
return {}

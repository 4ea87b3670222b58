#!lua flags=allow-oom
-- Takes parked messages away and puts something in their place: all of it, or nothing.
-- It runs on a full Redis too, because it is what empties it.
--
-- KEYS  1 parked messages  2 their index  3 live stream  4 dead letters  5 ledger
-- ARGV  number of ids, ids; number of letters, each a number of fields and values and these; then
--       ledger fields and increments
-- Without letters the messages go to the live stream. Gives how many of the ids were still there;
-- letters are written and counted only where all of them were.
local at = 1
local function take()
    at = at + 1
    return ARGV[at - 1]
end
local ids = {}
for i = 1, tonumber(take()) do
    ids[i] = take()
end
local letters = {}
for i = 1, tonumber(take()) do
    local fields = {}
    for n = 1, tonumber(take()) do
        fields[n] = take()
    end
    letters[i] = fields
end

if #letters > 0 then
    for _, id in ipairs(ids) do
        if redis.call('HEXISTS', KEYS[2], id) == 0 then
            return 0
        end
    end
end
local found = 0
for _, id in ipairs(ids) do
    if redis.call('HDEL', KEYS[2], id) == 1 then
        found = found + 1
        local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
        if entry and #letters == 0 then
            redis.call('XADD', KEYS[3], '*', unpack(entry[2]))
        end
        redis.call('XDEL', KEYS[1], id)
    end
end
for _, fields in ipairs(letters) do
    redis.call('XADD', KEYS[4], '*', unpack(fields))
end
count(KEYS[5], ARGV, at)
return found

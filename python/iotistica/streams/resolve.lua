#!lua flags=allow-oom
-- Removes a dead letter, writes the one that takes its place, and counts: all of it, or nothing.
-- It runs on a full Redis too, because it is what empties it.
--
-- KEYS  1 dead letters  2 ledger
-- ARGV  id; number of fields and values of the new letter, 0 for none, and these; then ledger
--       fields and increments
-- Gives 1; or 0 where somebody else removed the letter: then none takes its place.
local found = redis.call('XDEL', KEYS[1], ARGV[1])
local size = tonumber(ARGV[2])
if found == 1 and size > 0 then
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3, 2 + size))
end
count(KEYS[2], ARGV, 3 + size)
return found

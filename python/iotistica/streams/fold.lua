#!lua flags=allow-oom
-- Counts in the ledger what one process has in the journal, by their sum; what others have counted
-- meanwhile (fold_rest.lua) is not counted again.
--
-- KEYS  1 journal  2 ledger
-- ARGV  fields and increments of all, as one list in MessagePack; then the names of what it sums
local kept = {}
for i = 2, #ARGV do
    if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
        kept[#kept + 1] = ARGV[i]
    end
end
if #kept == #ARGV - 1 then
    count(KEYS[2], cmsgpack.unpack(ARGV[1]), 1)
else
    for _, name in ipairs(kept) do
        count(KEYS[2], cmsgpack.unpack(redis.call('HGET', KEYS[1], name)), 1)
    end
end
if #kept > 0 then
    redis.call('HDEL', KEYS[1], unpack(kept))
end

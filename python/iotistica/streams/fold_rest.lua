#!lua flags=allow-oom
-- Counts in the ledger what is in the journal, whoever wrote it.
--
-- KEYS  1 journal  2 ledger
-- ARGV  after how many fields it stops
-- Gives how many it has left.
local most, counted, cursor = tonumber(ARGV[1]), 0, '0'
repeat
    local page = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 4)
    cursor = page[1]
    for i = 1, #page[2], 2 do
        -- A growing hash may give one twice.
        if redis.call('HDEL', KEYS[1], page[2][i]) == 1 then
            local pairs = cmsgpack.unpack(page[2][i + 1])
            count(KEYS[2], pairs, 1)
            counted = counted + #pairs / 2
        end
    end
until cursor == '0' or counted >= most
return redis.call('HLEN', KEYS[1])

-- Adds to many fields of a hash by three commands to a thousand of them: HINCRBY for each would cost
-- Redis, and its AOF, most of what accepting a message does.
--
-- `pairs` from index `from` on: fields, none of them twice, each followed by what is added to it.
local COUNTED_AT_ONCE = 1000

local function count(key, pairs, from)
    for first = from, #pairs, 2 * COUNTED_AT_ONCE do
        local last = math.min(first + 2 * COUNTED_AT_ONCE - 1, #pairs)
        local fields, sums = {}, {}
        for i = first, last, 2 do
            fields[#fields + 1] = pairs[i]
        end
        local before = redis.call('HMGET', key, unpack(fields))
        for i, field in ipairs(fields) do
            sums[2 * i - 1] = field
            sums[2 * i] = (tonumber(before[i]) or 0) + pairs[first + 2 * i - 1]
        end
        redis.call('HSET', key, unpack(sums))
    end
end

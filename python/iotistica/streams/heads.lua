#!lua flags=no-writes
-- Dead letters without their payloads, which may be large: the field `data` becomes `bytes`.
--
-- KEYS  1 dead letters
-- ARGV  XRANGE or XREVRANGE; from; to; how many letters at the most; how many bytes of payload
-- Gives whether that was the end of the range, and the entries.
local command, from, to = ARGV[1], ARGV[2], ARGV[3]
local most, room = tonumber(ARGV[4]), tonumber(ARGV[5])
local heads = {}
while #heads < most and room > 0 do
    local count = math.min(16, most - #heads)
    local some = redis.call(command, KEYS[1], from, to, 'COUNT', count)
    for _, entry in ipairs(some) do
        local fields = entry[2]
        for i = 1, #fields, 2 do
            if fields[i] == 'data' then
                local size = #fields[i + 1]
                fields[i], fields[i + 1] = 'bytes', tostring(size)
                room = room - size
                break
            end
        end
        heads[#heads + 1] = entry
        from = '(' .. entry[1]
    end
    if #some < count then
        return {1, heads}
    end
end
return {0, heads}

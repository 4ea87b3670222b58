#!lua flags=no-writes
-- Counts the messages of a page of entries by agent; only the headers leave Redis.
--
-- KEYS  1 stream
-- ARGV  first id, last id, entries
-- Gives the id of the last entry, or false where there is none; entries that are not of our form;
-- then for each topic up to its agent: the topic, messages, and when the oldest was received (ms).
local page = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
local topics, messages, oldest, foreign = {}, {}, {}, 0
for _, entry in ipairs(page) do
    local fields = entry[2]
    if fields[1] and string.find(fields[1], ' ', 1, true) then
        for i = 1, #fields, 2 do
            local received, topic = string.match(fields[i], '^(%d+)%-%d+ (i/[^/]+/a/[^/]+)/')
            topic, received = topic or '', tonumber(received) or 0
            if not messages[topic] then
                topics[#topics + 1], messages[topic], oldest[topic] = topic, 0, received
            end
            messages[topic] = messages[topic] + 1
            oldest[topic] = math.min(oldest[topic], received)
        end
    else
        foreign = foreign + 1
    end
end
local reply = {#page > 0 and page[#page][1] or false, foreign}
for _, topic in ipairs(topics) do
    reply[#reply + 1] = topic
    reply[#reply + 1] = messages[topic]
    reply[#reply + 1] = oldest[topic]
end
return reply

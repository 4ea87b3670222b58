#!lua flags=allow-oom
-- Publishes many messages for one reply: that of each is read at the price of a poll's answer.
--
-- ARGV  channel and payload of each, in order
for i = 1, #ARGV, 2 do
    redis.call('PUBLISH', ARGV[i], ARGV[i + 1])
end

#!lua
-- KEYS  1 ledger
-- ARGV  fields and increments as one list in MessagePack, which costs less than as many arguments
count(KEYS[1], cmsgpack.unpack(ARGV[1]), 1)

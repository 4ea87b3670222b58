#!lua
-- KEYS  1 ledger
-- ARGV  fields and increments
count(KEYS[1], ARGV, 1)

-- Merges numbers of an agent's messages into those that were seen. The same as sequences.py, which
-- explains it; a test compares the two on random vectors.
local MOST_RANGES, REORDERED, AGE_MS = 64, 100, 5000

local function parse_run(text)
    local run = {}
    for low, high in string.gmatch(text, '(%d+)%-?(%d*)') do
        run[#run + 1] = {tonumber(low), tonumber(high) or tonumber(low)}
    end
    return run
end
local function run_text(run)
    local parts = {}
    for i, range in ipairs(run) do
        local form = range[1] == range[2] and '%d' or '%d-%d'
        parts[i] = string.format(form, range[1], range[2])
    end
    return table.concat(parts, ',')
end
local function highest(run)
    return #run > 0 and run[#run][2] or 0
end
local function length(run)
    local numbers = 0
    for _, range in ipairs(run) do
        numbers = numbers + range[2] - range[1] + 1
    end
    return numbers
end
local function missing(run)
    return #run > 0 and highest(run) - run[1][1] + 1 - length(run) or 0
end
local function begins_again(run, low, high)
    if low > 1 or #run == 0 or highest(run) <= high + REORDERED then
        return false
    end
    if run[1][1] > high + REORDERED then
        return true
    end
    for _, range in ipairs(run) do
        if range[1] <= low and low <= range[2] then
            return true
        end
    end
    return false
end
local function insert(run, low, high)
    local grown, at = {}, 1
    while run[at] and run[at][2] < low - 1 do
        grown[#grown + 1] = run[at]
        at = at + 1
    end
    while run[at] and run[at][1] <= high + 1 do
        low, high = math.min(low, run[at][1]), math.max(high, run[at][2])
        at = at + 1
    end
    grown[#grown + 1] = {low, high}
    while run[at] do
        grown[#grown + 1] = run[at]
        at = at + 1
    end
    return grown
end
local function shorten(run)
    local forgotten = 0
    while #run > MOST_RANGES do
        forgotten = forgotten + run[2][1] - run[1][2] - 1
        run[2][1] = run[1][1]
        table.remove(run, 1)
    end
    return forgotten
end

local function merge_sequences(text, ranges, now_ms)
    local numbers, previous, current = string.match(text, '^([%d ]*);([^;]*);(.*)$')
    local state = {}
    for number in string.gmatch(numbers or '0 0 0 0 0 0 0', '%d+') do
        state[#state + 1] = tonumber(number)
    end
    local restarts, seen, missed, forgotten, settled, mark, mark_ms = unpack(state)
    previous, current = parse_run(previous or ''), parse_run(current or '')
    ranges = parse_run(ranges)
    table.sort(ranges, function(a, b)
        return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
    end)
    for _, range in ipairs(ranges) do
        local low, high = range[1], range[2]
        if begins_again(current, low, high) then
            restarts, seen = restarts + 1, seen + high - low + 1
            missed = missed + missing(previous)
            previous, current = current, {{low, high}}
            settled, mark, mark_ms = 0, 0, now_ms
        else
            local old = #previous > 0
                and math.abs(low - highest(previous)) < math.abs(low - highest(current))
            local run = old and previous or current
            local before = length(run)
            run = insert(run, low, high)
            local gone = shorten(run)
            seen, forgotten = seen + length(run) - gone - before, forgotten + gone
            if old then
                previous = run
            else
                current = run
            end
        end
    end
    if #current > 0 and math.abs(now_ms - mark_ms) >= AGE_MS then
        settled, mark, mark_ms = mark, highest(current), now_ms
    end
    local head = {restarts, seen, missed, forgotten, settled, mark, mark_ms}
    for i, number in ipairs(head) do
        head[i] = string.format('%d', number)
    end
    return table.concat(head, ' ') .. ';' .. run_text(previous) .. ';' .. run_text(current)
end

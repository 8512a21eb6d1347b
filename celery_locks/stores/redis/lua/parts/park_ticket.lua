-- Parks the ticket of `enter` and `park`. Needs id (the ticket), me (the ticket as a waiter), state and number (nil if the
-- ticket is not known), mine, most, and limit; ARGV as in enter.

-- Returns an answer that ends with a refusal.
local function answer(kind, ...)
  local all = {kind, ...}
  for _, part in ipairs(refusal(0, redis.call('ZRANK', LINE, me), most)) do
    all[#all + 1] = part
  end
  return all
end

-- Puts the ticket in line, and dispatches the tickets whose turn it is.
local function park_or_refuse()
  if not state then
    if ARGV[8] == '' then
      return answer('refused')
    end
    local waiters = redis.call('ZCOUNT', ALIVE, string.format('(%.0f', now), '+inf')
    if tonumber(ARGV[11]) > 0 and waiters >= tonumber(ARGV[11]) then
      return {'full', waiters}
    end
    number = next_place()
    mine[5] = tonumber(ARGV[10]) > 0 and string.format('%.0f', now + ARGV[10]) or '0'
    local owner = ARGV[13] ~= '' and ARGV[13] or ARGV[6]
    redis.call('HSET', ticket_key(id), 'number', number, 'message', ARGV[8], 'task', ARGV[9], 'owner', owner,
      'permits', ARGV[5], 'limit', ARGV[4], 'until', mine[5], 'calls', 0, 'broker', ARGV[14])
    mine[7] = ARGV[14]
  end
  put_in_line(id, number, tonumber(mine[5]), ARGV[9], mine[7], limit)
  local dispatches = dispatch({}, ARGV[14])
  update_due()
  return answer('parked', #dispatches / 3, unpack(dispatches))
end

-- An error that was caught, as text. Redis before 7 raises texts that begin with the place in the script.
local function text_of(problem)
  return type(problem) == 'table' and problem.err or problem
end

local function error_of(text)
  return redis.error_reply(string.sub(text, 1, 1) == '@' and 'ERR ' .. text or text)
end

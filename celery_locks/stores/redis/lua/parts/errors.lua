-- Errors that a script has caught.

-- Returns an error's text. In Redis before 7 it begins with the position in the script.
local function error_text(problem)
  return type(problem) == 'table' and problem.err or problem
end

local function error_reply(text)
  return redis.error_reply(string.sub(text, 1, 1) == '@' and 'ERR ' .. text or text)
end

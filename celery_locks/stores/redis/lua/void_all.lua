-- include void

-- Has both copies of some requests of this token change nothing from now on.
local function void_all(numbers)
  for number in string.gmatch(numbers, '%S+') do
    void(token .. ' ' .. number)
    void(token .. ' ' .. number .. ' repeat')
  end
end

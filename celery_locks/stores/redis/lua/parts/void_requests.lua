-- Voids both copies of some requests of this token; `ids` are separated by spaces.

-- include voided_requests

local function void_requests(ids)
  for id in string.gmatch(ids, '%S+') do
    void(token .. ' ' .. id)
    void(token .. ' ' .. id .. ' repeat')
  end
end

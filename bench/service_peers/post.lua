-- wrk: POST the lines of a file in turn, each a JSON body.
dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "report.lua")
local requests, turn = {}, 0

function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format(nil, nil, nil, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

-- wrk: POST one observation a request, each the newest hour of its series; the series take turns.
-- Arguments: how many series, the first hour (seconds since 1970), and the rest of an observation as JSON members.
dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "report.lua")
local count, hour, members, turn

function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  count, hour, members, turn = tonumber(arguments[1]), tonumber(arguments[2]), arguments[3], 0
end

function request()
  if turn == count then
    turn, hour = 0, hour + 3600
  end
  turn = turn + 1
  return wrk.format(nil, nil, nil, string.format(
    '{"observations":[{"unique_id":"S%05d","ds":"%s",%s}]}', turn, os.date("!%Y-%m-%dT%H:%M:%SZ", hour), members))
end

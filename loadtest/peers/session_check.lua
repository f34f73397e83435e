local function gcra(key, quota, window, cost)
  local t = redis.call('TIME')
  local now = (t[1] - 1700000000) * 1000 + t[2] / 1000
  local step = window / quota
  local tat = tonumber(redis.call('GET', key) or 0)
  if tat < now then tat = now end
  local new = tat + step * cost
  if new - now > window + step / 2 then
    return {0, 0, math.ceil(tat - now), math.ceil(new - now - window)}
  end
  redis.call('SET', key, string.format('%.6f', new), 'PX', math.ceil(new - now))
  local left = math.floor((window - (new - now)) / step + 0.5)
  return {1, left, math.ceil(new - now), 0}
end
local s = redis.call('HMGET', KEYS[1], 'h', 'r', 'l')
if s[1] ~= ARGV[1] then return 0 end
local touched = 0
if ARGV[2] - s[3] > tonumber(ARGV[3]) then
  touched = 1
  redis.call('HSET', KEYS[1], 'l', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('ZADD', KEYS[3], 'XX', ARGV[2] + ARGV[4], ARGV[5])
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
local v = gcra(KEYS[2], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8] or 1))
v[5] = s[2]
v[6] = touched
local w = redis.call('HMGET', KEYS[4], 's', 'l', 'e', 'u')
if w[4] then
  local t = redis.call('TIME')
  if tonumber(w[4]) > t[1] * 1000 + t[2] / 1000 then w[1] = '0' end
end
v[7], v[8], v[9] = w[1] or '', w[2] or '0', w[3] or '0'
return v

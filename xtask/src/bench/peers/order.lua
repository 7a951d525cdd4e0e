-- One order, whole or not at all: what Crest does, with as few commands as it takes.
-- The order itself, under its buyer and id, is what remembers the id and what can be read.
-- KEYS: 1 the order, 2 the buyer's balance, 3 stock, 4 prices, 5 sellers, 6 payable.
-- ARGV: items and quantities, in turn.
local before = redis.call('GET', KEYS[1])
local asked = table.concat(ARGV, ',')
if before then
  local outcome, content = string.match(before, '^(%S+) (%S+)')
  if content ~= asked then return 'id_reused' end
  return outcome == 'ok' and 'already_done' or outcome
end
local items, wanted, lines = {}, {}, #ARGV / 2
for line = 1, lines do
  local item, quantity = ARGV[2 * line - 1], tonumber(ARGV[2 * line])
  items[line] = item
  wanted[item] = (wanted[item] or 0) + quantity
end
local stock = redis.call('HMGET', KEYS[3], unpack(items))
local price = redis.call('HMGET', KEYS[4], unpack(items))
local balance = redis.call('GET', KEYS[2])
local outcome, total = 'ok', 0
if not balance then outcome = 'unknown_account' end
for line = 1, lines do
  if not price[line] then
    outcome = 'unknown_item'
  elseif outcome == 'ok' and wanted[items[line]] > tonumber(stock[line]) then
    outcome = 'sold_out'
  elseif outcome == 'ok' then
    total = total + ARGV[2 * line] * price[line]
  end
end
if outcome == 'ok' and total > tonumber(balance) then outcome = 'insufficient_funds' end
if outcome ~= 'ok' then
  redis.call('SET', KEYS[1], outcome .. ' ' .. asked)
  return outcome
end
local seller, due = redis.call('HMGET', KEYS[5], unpack(items)), {}
for line = 1, lines do
  due[seller[line]] = (due[seller[line]] or 0) + ARGV[2 * line] * price[line]
end
for item, quantity in pairs(wanted) do redis.call('HINCRBY', KEYS[3], item, -quantity) end
for party, amount in pairs(due) do
  redis.call('HINCRBY', KEYS[6], party, string.format('%.0f', amount))
end
redis.call('DECRBY', KEYS[2], string.format('%.0f', total))
redis.call('SET', KEYS[1], 'ok ' .. asked .. ' ' .. table.concat(price, ',') .. ' ' ..
  string.format('%.0f', total))
return 'ok'

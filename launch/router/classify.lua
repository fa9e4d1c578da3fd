-- Reads what routing needs from a request's JSON body, in one pass over its top level:
--   x-llmfleet-model   the model the client names
--   x-llmfleet-prefix  hash of how the prompt begins, the same for every turn of a conversation
--   x-llmfleet-tokens  estimated length of the prompt
-- A body that is not one JSON object with a model is answered here. Values below the top level are only skipped:
-- brackets and strings must match up, the engine judges the rest.
local bit, ffi = require("bit"), require("ffi")
local band, bor, bxor, lshift, rshift, tobit, tohex = bit.band, bit.bor, bit.bxor, bit.lshift, bit.rshift, bit.tobit, bit.tohex
local byte, char, find, match, sub = string.byte, string.char, string.find, string.match, string.sub

local WINDOW = PREFIX_BYTES or 4096 -- bytes of prompt text that the hash covers
local WINDOW_OF = PREFIX_BYTES_OF or {} -- and of these models
local MAX_DEPTH = 512 -- deeper nesting is an attack, and kills JSON parsers that recurse
local WIDE_TOKENS = 0.7 -- of a CJK character, see docs/router.md
local DATA_TOKENS = 1000 -- of an image or the like, given as a data: URL
local MOST_NAME = 256 -- bytes of a model's name
local WORDS, HIGH_BITS = ffi.typeof("const int32_t *"), 0x80808080
local QUOTE, COMMA, COLON, OPEN, CLOSE, OPEN_LIST, CLOSE_LIST, BACKSLASH = 34, 44, 58, 123, 125, 91, 93, 92

-- Loops over bytes and plain find (memchr) are compiled; patterns are not, and cost ten times as much a call.
local function set(members)
  local has = {}
  for i = 1, #members do has[byte(members, i)] = true end
  return has
end

local SPACE = set(" \t\r\n")
local SCALAR = set("0123456789+-.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") -- of numbers, true, false, null

local function skip_space(s, i)
  while SPACE[byte(s, i)] do i = i + 1 end
  return i
end

local function skip_scalar(s, i)
  local first = i
  while SCALAR[byte(s, i)] do i = i + 1 end
  return i > first and i or nil
end

local function escaped(s, i)
  local first = i
  while byte(s, first - 1) == BACKSLASH do first = first - 1 end
  return (i - first) % 2 == 1
end

-- The skip functions return the index after the thing that starts at i, or nil where it is broken.
-- The price of a string is its quotes, not its length.
local function skip_string(s, i)
  local p = i
  repeat
    p = find(s, '"', p + 1, true)
    if not p then return nil end
  until not escaped(s, p)
  return p + 1
end

local function skip_nested(s, i)
  local depth, p = 0, i
  while true do
    local c = byte(s, p)
    if c == QUOTE then
      p = skip_string(s, p)
      if not p then return nil end
    else
      if c == OPEN or c == OPEN_LIST then
        depth = depth + 1
        if depth > MAX_DEPTH then return nil end
      elseif c == CLOSE or c == CLOSE_LIST then
        depth = depth - 1
        if depth == 0 then return p + 1 end
      elseif not c then
        return nil
      end
      p = p + 1
    end
  end
end

local function skip_value(s, i)
  local c = byte(s, i)
  if c == QUOTE then return skip_string(s, i) end
  if c == OPEN or c == OPEN_LIST then return skip_nested(s, i) end
  return skip_scalar(s, i)
end

local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + math.floor(code / 64), 0x80 + code % 64) end
  local tail = char(0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
  if code < 0x10000 then return char(0xE0 + math.floor(code / 4096)) .. tail end
  return char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64) .. tail
end

local PLAIN = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function decode_escape(raw, i)
  local letter = sub(raw, i, i)
  if letter ~= "u" then return PLAIN[letter] or letter, i + 1 end
  local hex = match(raw, "^u(%x%x%x%x)", i)
  if not hex then return letter, i + 1 end
  local code = tonumber(hex, 16)
  local low = code >= 0xD800 and code < 0xDC00 and match(raw, "^\\u([dD][c-fC-F]%x%x)", i + 5)
  if not low then return utf8(code), i + 5 end
  return utf8(0x10000 + (code - 0xD800) * 1024 + tonumber(low, 16) - 0xDC00), i + 11
end

-- The bytes that the inside of a JSON string stands for.
local function decode(raw)
  local out, from = {}, 1
  while true do
    local p = find(raw, "\\", from, true)
    if not p then break end
    out[#out + 1] = sub(raw, from, p - 1)
    out[#out + 1], from = decode_escape(raw, p + 1)
  end
  if from == 1 then return raw end
  return table.concat(out) .. sub(raw, from)
end

-- Reads the object at i. Returns the index after it and where the value of each wanted member starts;
-- of members that come twice, the last counts, as in most parsers.
local function read_object(s, i, wanted)
  local at = {}
  local p = skip_space(s, i + 1)
  if byte(s, p) == CLOSE then return p + 1, at end
  while byte(s, p) == QUOTE do
    local after = skip_string(s, p)
    if not after then return nil end
    local key = after - p <= 128 and decode(sub(s, p + 1, after - 2)) -- longer is none of ours, however escaped
    p = skip_space(s, after)
    if byte(s, p) ~= COLON then return nil end
    p = skip_space(s, p + 1)
    if wanted[key] then at[key] = p end
    p = skip_value(s, p)
    if not p then return nil end
    p = skip_space(s, p)
    local c = byte(s, p)
    if c == CLOSE then return p + 1, at end
    if c ~= COMMA then return nil end
    p = skip_space(s, p + 1)
  end
  return nil
end

local MESSAGE = { role = true, content = true, text = true }
local add_text

-- Adds the text of each item of the list at i, up to and with the first of the user's messages.
local function add_items(s, i, into, depth)
  local p = skip_space(s, i + 1)
  while into.room > 0 and byte(s, p) ~= CLOSE_LIST do
    local role = add_text(s, p, into, depth + 1)
    if role == "user" and depth == 0 then return end
    p = skip_value(s, p)
    if not p then return end
    p = skip_space(s, p)
    if byte(s, p) ~= COMMA then return end
    p = skip_space(s, p + 1)
  end
end

local function add(into, text)
  text = sub(text, 1, into.room)
  into[#into + 1] = text
  into.room = into.room - #text
end

-- The string at i, decoded, whole if it has no more than `longest` bytes: each takes up to six in JSON.
local function string_at(s, i, longest)
  if byte(s, i) ~= QUOTE then return nil end
  local start = sub(s, i + 1, math.min(i + longest + 1, find(s, '"', i + 1, true) - 1))
  if not find(start, "\\", 1, true) then return start end
  local raw = sub(s, i, i + 6 * longest + 12)
  local after = skip_string(raw, 1)
  return decode(sub(raw, 2, after and after - 2))
end

-- Adds the text of the value at i: a string, a list of such, or an object's "text" or else its "content"; of numbers
-- (token ids) their digits. Returns the role of a message.
function add_text(s, i, into, depth)
  local c = byte(s, i)
  if depth > 4 then return end
  if c == QUOTE then
    add(into, string_at(s, i, into.room) or "")
  elseif c == OPEN_LIST then
    add_items(s, i, into, depth)
  elseif c == OPEN then
    local _, at = read_object(s, i, MESSAGE)
    if not at then return end
    if at.text or at.content then add_text(s, at.text or at.content, into, depth + 1) end
    return at.role and string_at(s, at.role, 16)
  else
    local digits = match(s, "^-?%d[%w.+-]*", i)
    if digits then add(into, digits .. ",") end
  end
end

local function prompt_start(s, at, window)
  local into = { room = window }
  local body = at.messages or at.prompt or at.input
  for _, start in ipairs({ at.system or at.instructions or false, body or false }) do
    if start and into.room > 0 then add_text(s, start, into, 0) end
  end
  return into[2] and table.concat(into) or into[1] or ""
end

-- FNV-1a, 32 bits, a word of four bytes a step, its upper half folded down each time; the rest byte by byte.
-- 0x01000193 = 2^24 + 403, and h * 403 stays exact in a double.
local function hash(s)
  local h, whole, words = tobit(0x811c9dc5), math.floor(#s / 4), ffi.cast(WORDS, s)
  for i = 0, whole - 1 do
    h = bxor(h, words[i])
    h = tobit(h * 403 + lshift(h, 24))
    h = bxor(h, rshift(h, 15))
  end
  for i = 4 * whole + 1, #s do
    h = bxor(h, byte(s, i))
    h = tobit(h * 403 + lshift(h, 24))
  end
  return tohex(h)
end

-- Characters of three or four bytes in UTF-8. 32 bytes a step: most bodies are ASCII.
local function wide_characters(s)
  local n, whole, words = 0, math.floor(#s / 32), ffi.cast(WORDS, s)
  for step = 0, whole - 1 do
    local i = 8 * step
    local low, high = bor(words[i], words[i + 1], words[i + 2], words[i + 3]),
      bor(words[i + 4], words[i + 5], words[i + 6], words[i + 7])
    if band(bor(low, high), HIGH_BITS) ~= 0 then
      for k = 32 * step + 1, 32 * step + 32 do
        if byte(s, k) >= 224 then n = n + 1 end
      end
    end
  end
  for k = 32 * whole + 1, #s do
    if byte(s, k) >= 224 then n = n + 1 end
  end
  return n
end

local function unicode_escapes(s)
  local n, p = 0, find(s, "\\u", 1, true)
  while p do
    if not escaped(s, p) then n = n + 1 end
    p = find(s, "\\u", p + 2, true)
  end
  return n
end

-- How many data: URLs the body carries and their bytes.
local function data_urls(s)
  local n, bytes, p = 0, 0, find(s, '"data:', 1, true)
  while p do
    local after = not escaped(s, p) and skip_string(s, p)
    if after then n, bytes = n + 1, bytes + after - p end
    p = find(s, '"data:', after or p + 1, true)
  end
  return n, bytes
end

-- Four bytes a token, but for wide characters, which take three bytes or an escape of six, and for data: URLs.
local function estimate_tokens(s)
  local wide, escapes = wide_characters(s), unicode_escapes(s)
  local urls, url_bytes = data_urls(s)
  local narrow = #s - 3 * wide - 6 * escapes - url_bytes
  return math.floor(narrow / 4 + WIDE_TOKENS * (wide + escapes) + DATA_TOKENS * urls)
end

local FIELDS = { model = true, messages = true, prompt = true, input = true, system = true, instructions = true }

-- Returns model, prompt start and tokens; or nil and what is wrong.
local function classify(s)
  local start = skip_space(s, 1)
  if byte(s, start) ~= OPEN then return nil, "The request body must be a JSON object." end
  local after, at = read_object(s, start, FIELDS)
  if not after or skip_space(s, after) <= #s then
    return nil, "The request body is not valid JSON, or is nested too deeply."
  end
  if not at.model then return nil, "You must provide a model parameter. GET /v1/models lists the models." end
  local model = string_at(s, at.model, MOST_NAME)
  if not model then return nil, "The model parameter must be a string." end
  return model, prompt_start(s, at, WINDOW_OF[model] or WINDOW), estimate_tokens(s)
end

-- A header cannot carry every string. No model of ours has such a name.
local function header_safe(name)
  for i = 1, #name do
    local c = byte(name, i)
    if c < 32 or c > 126 then return "?" end
  end
  return #name <= MOST_NAME and name or "?"
end

local function refuse(handle, message)
  local body = '{"error":{"message":"' .. message .. '","type":"invalid_request_error","param":null,"code":null}}'
  handle:respond({ [":status"] = "400", ["content-type"] = "application/json" }, body)
end

-- By default the collector runs whenever the little that lives here has doubled: every 25 requests. What a large body
-- leaves behind goes at once, or the next run would wait for ten times as much.
local LARGE = 1048576
collectgarbage("setpause", 1000)

function envoy_on_request(handle)
  local buffer = handle:body(true)
  local length = buffer:length()
  if length == 0 and handle:headers():get(":method") ~= "POST" then return end
  local model, start, tokens = classify(buffer:getBytes(0, length))
  if not model then return refuse(handle, start) end
  local headers = handle:headers() -- those from before body() are gone
  headers:replace("x-llmfleet-model", header_safe(model))
  headers:replace("x-llmfleet-tokens", tostring(tokens))
  if start ~= "" then headers:replace("x-llmfleet-prefix", hash(start)) end
  if sub(headers:get("x-llmfleet-client") or "", 1, 4) == "low/" then headers:replace("x-fleet-priority", "low") end
  if length > LARGE then collectgarbage() end
end

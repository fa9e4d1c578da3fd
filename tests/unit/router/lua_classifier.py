"""classify.lua in a LuaJIT of its own, with a double of the handle that Envoy gives it."""

from __future__ import annotations

from importlib import resources
from typing import Any

from lupa import luajit21
from reference import Found

DOUBLE = b"""
local sent
local headers = {
  get = function(_, name) return sent[name] end,
  replace = function(_, name, value) sent[name] = value end,
}
local buffer = {
  length = function(b) return #b.bytes end,
  getBytes = function(b, from, n) return b.bytes:sub(from + 1, from + n) end,
}
local handle = {
  headers = function() return headers end,
  body = function() return buffer end,
  respond = function(_, answer) sent.refused = answer[":status"] end,
}
return function(bytes, method)
  sent = { [":method"] = method }
  buffer.bytes = bytes
  envoy_on_request(handle)
  return sent.refused, sent["x-llmfleet-model"], sent["x-llmfleet-prefix"], sent["x-llmfleet-tokens"]
end
"""


class Classifier:
    def __init__(self, window: int = 4096) -> None:
        self.lua = luajit21.LuaRuntime(encoding=None)
        code = resources.files("llmfleet.launch.router").joinpath("classify.lua").read_bytes()
        self.lua.execute(b"PREFIX_BYTES = %d\n" % window + code)
        self.call: Any = self.lua.execute(DOUBLE)

    def classify(self, body: bytes) -> Found | None:
        """None: refused with 400."""
        refused, model, prefix, tokens = self.call(body, b"POST")
        if refused:
            assert refused == b"400"
            return None
        return Found(model.decode(), prefix.decode() if prefix else None, int(tokens))

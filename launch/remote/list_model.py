#!/usr/bin/env python3
"""What a model repository holds, at one revision. Stand-alone: Python 3.6 and its library.

    list_model.py     on stdin one line of JSON: {"hub": "hf" or "modelscope", "endpoint": URL, "model": "org/name",
                      "revision": or null, "file": the only one wanted or null, "token": or null}

Prints {"revision": commit, "files": [{"name", "size", "sha256" or null, "url"}]} or {"error": why}.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any, Dict, List, Optional
from urllib.parse import quote, urlencode

LARGEST = 64 << 20
SILENT_S = 30
# What no engine of ours reads: other frameworks' copies of the same weights, and pictures.
OTHERS = (".msgpack", ".h5", ".onnx", ".onnx_data", ".tflite", ".ot", ".mlmodel", ".png", ".jpg", ".jpeg", ".gif",
          ".md", ".gitattributes", ".gitignore", ".pdf", ".mp4")
FOLDERS = ("onnx", "openvino", "original", "coreml", ".git")
Listing = Dict[str, Any]


def hf(asked: Dict[str, Any]) -> Listing:
    model, revision = quote(asked["model"]), quote(asked["revision"] or "main", safe="")
    found = get(asked, "/api/models/%s/revision/%s?blobs=true" % (model, revision))
    commit = found["sha"]
    files = []
    for each in found["siblings"]:
        stored = each.get("lfs") or {}
        files.append({
            "name": each["rfilename"], "size": stored.get("size", each.get("size")), "sha256": stored.get("sha256"),
            "url": "%s/%s/resolve/%s/%s" % (asked["endpoint"], model, commit, quote(each["rfilename"])),
        })
    return {"revision": commit, "files": files}


def modelscope(asked: Dict[str, Any]) -> Listing:
    """Its revision is that of the newest file, by which all can be had again."""
    model, revision = quote(asked["model"]), asked["revision"] or "master"
    query = urlencode({"Revision": revision, "Recursive": "true"})
    found = get(asked, "/api/v1/models/%s/repo/files?%s" % (model, query))["Data"]["Files"]
    blobs = [each for each in found if each.get("Type") != "tree"]
    newest = max(blobs, key=lambda each: each.get("CommittedDate") or 0) if blobs else {}
    commit = newest.get("Revision") or revision
    files = []
    for each in blobs:
        words = urlencode({"Revision": commit, "FilePath": each["Path"]})
        files.append({
            "name": each["Path"], "size": each["Size"], "sha256": each.get("Sha256") or None,
            "url": "%s/api/v1/models/%s/repo?%s" % (asked["endpoint"], model, words),
        })
    return {"revision": commit, "files": files}


def get(asked: Dict[str, Any], path: str) -> Any:
    request = urllib.request.Request(asked["endpoint"] + path, headers={"User-Agent": "llmfleet"})
    if asked.get("token"):
        request.add_unredirected_header("Authorization", "Bearer " + asked["token"])
    with urllib.request.urlopen(request, timeout=SILENT_S) as answer:
        return json.loads(answer.read(LARGEST).decode())


def wanted(listing: Listing, only: Optional[str]) -> List[Dict[str, Any]]:
    files = [f for f in listing["files"] if safe(f["name"])]
    if only:
        return [dict(f, name="") for f in files if f["name"] == only]  # the file itself is what lies on the node
    files = [f for f in files if not f["name"].endswith(OTHERS) and f["name"].split("/")[0] not in FOLDERS]
    if any(f["name"].endswith(".safetensors") for f in files):
        files = [f for f in files if not f["name"].endswith((".bin", ".pt", ".pth"))]
    return files


def safe(name: str) -> bool:
    """Stays below the folder that it is put in."""
    return not name.startswith("/") and ".." not in name.split("/") and name.isprintable() and name != ""


def main() -> int:
    asked = json.loads(sys.stdin.readline())
    try:
        listing = {"hf": hf, "modelscope": modelscope}[asked["hub"]](asked)
        files = wanted(listing, asked.get("file"))
        if not files:
            what = "has no file %s" % asked["file"] if asked.get("file") else "holds no files"
            raise LookupError("%s %s at revision %s" % (asked["model"], what, listing["revision"]))
        print(json.dumps({"revision": listing["revision"], "files": files}))
        return 0
    except urllib.error.HTTPError as why:
        words = {401: "wants a token, or a better one", 403: "does not let us", 404: "has no such model or revision"}
        what = "%s (HTTP status %d)" % (words.get(why.code, "fails"), why.code)
        print(json.dumps({"error": "%s %s" % (asked["endpoint"], what)}))
    except (OSError, LookupError, ValueError, TypeError) as why:
        reason = getattr(why, "reason", None) or why
        print(json.dumps({"error": "%s: %s" % (asked["endpoint"], reason)}))
    return 1


if __name__ == "__main__":
    sys.exit(main())

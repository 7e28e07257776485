"""A small hub on this machine, as far as downloads and uploads of models speak to it, with faults on request.

It speaks the public protocol of huggingface.co: model facts, trees, ``resolve`` with ETag and Range, preupload, LFS and
commits. Files above :data:`LFS_BYTES` are LFS files, whose ETag is their SHA-256.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LFS_BYTES = 4000


class Hub:
    """The content of the hub, and what goes wrong on the way.

    Attributes:
        repos: Repository -> list of commits, oldest first, each (40 digits, {file: bytes}).
        cut_after: GETs of files above this many bytes end after them; one number per GET, used up in order.
        stalls: LFS files never bring a byte.
        replaced: File -> bytes that are handed out instead, under the ETag of the true ones.
        requests: (method, path, Range header) of every request.
    """

    def __init__(self):
        self.repos, self.uploads = {}, {}
        self.cut_after, self.stalls, self.replaced, self.requests = [], False, {}, []
        self.url = ""

    def commit(self, repo, files):
        """Adds a commit; files of the one before stay."""
        commits = self.repos.setdefault(repo, [])
        whole = (commits[-1][1] if commits else {}) | files
        facts = json.dumps(
            [repo, len(commits), {name: hashlib.sha256(data).hexdigest() for name, data in whole.items()}]
        )
        commits.append((hashlib.sha1(facts.encode()).hexdigest(), whole))
        return commits[-1][0]

    def find(self, repo, revision):
        """(commit, files) of a revision, or None."""
        commits = self.repos.get(repo, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((one for one in commits if one[0] == revision), None)

    @contextmanager
    def serve(self):
        """Answers on a free port until the block ends."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", path):
            return self._facts(match[1], match[2] or "main")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            return self._tree(match[1], match[2])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], match[2], match[3])
        return self._json({"error": "no such address"}, 404)

    def _facts(self, repo, revision):
        if repo not in self.hub.repos:
            return self._json({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
        found = self.hub.find(repo, revision)
        if found is None:
            return self._json({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in found[1]]
        return self._json(
            {"id": repo, "modelId": repo, "sha": found[0], "siblings": siblings, "private": False, "tags": []}
        )

    def _tree(self, repo, revision):
        found = self.hub.find(repo, revision)
        if found is None:
            return self._json({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        entries = []
        for name, data in found[1].items():
            entry = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            if len(data) > LFS_BYTES:
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        return self._json(entries)

    def _file(self, repo, revision, name):
        found = self.hub.find(repo, revision)
        if found is None or name not in found[1]:
            return self._json({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})
        true = found[1][name]
        data = self.hub.replaced.get(name, true)
        big = len(true) > LFS_BYTES
        etag = hashlib.sha256(true).hexdigest() if big else hashlib.sha1(true).hexdigest()
        headers = {"X-Repo-Commit": found[0], "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if big:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        start, status = 0, 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body, cut = data[start:], None
        if self.command == "GET" and self.hub.stalls and big:
            cut = 0
        elif self.command == "GET" and self.hub.cut_after and len(body) > self.hub.cut_after[0]:
            cut = self.hub.cut_after.pop(0)
        self._send(status, headers | {"Content-Type": "application/octet-stream"}, body, cut)

    def do_POST(self):
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, None))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            facts = json.loads(body)
            repo = f"{facts['organization']}/{facts['name']}" if facts.get("organization") else facts["name"]
            if repo in self.hub.repos:
                return self._json(
                    {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}, 409
                )
            self.hub.repos[repo] = []
            return self._json({"url": f"{self.hub.url}/{repo}"})
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = json.loads(body)["files"]
            return self._json({"files": [self._mode(one) for one in files]})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            oid = self.hub.commit(match[1], dict(filter(None, map(self._operation, body.splitlines()))))
            address = f"{self.hub.url}/{match[1]}/commit/{oid}"
            return self._json({"success": True, "commitOid": oid, "commitUrl": address})
        return self._json({"error": "no such address"}, 404)

    @staticmethod
    def _mode(one):
        return {
            "path": one["path"],
            "uploadMode": "lfs" if one["size"] > LFS_BYTES else "regular",
            "shouldIgnore": False,
        }

    def _operation(self, line):
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "file":
            return value["path"], base64.b64decode(value["content"])
        if entry["key"] == "lfsFile":
            return value["path"], self.hub.uploads[value["oid"]]
        return None

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rsplit("/", 1)[1].partition("?")[0]
        self.hub.requests.append((self.command, self.path, None))
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "hash mismatch"}, 400)
        self.hub.uploads[oid] = body
        return self._send(200, {}, b"", None)

    def _json(self, value, status=200, *, kind="application/json", **headers):
        self._send(status, {"Content-Type": kind, **headers}, json.dumps(value).encode(), None)

    def _send(self, status, headers, body, cut):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True

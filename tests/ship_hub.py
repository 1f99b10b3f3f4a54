"""A small stand-in for the Hugging Face Hub: repositories in memory, the calls that create, upload and download make, nothing else."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """repositories: name -> {file: bytes}. private: names. refuse: a status to answer every call with, or 0. tokens: those seen."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Calls)
        self.repositories, self.private, self.refuse, self.tokens, self.calls = {}, set(), 0, set(), []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Calls(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_call(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.calls.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization", ""))
        if hub.refuse:
            return self.answer(hub.refuse, {"error": "refused"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            hub.repositories.setdefault(name, {})
            hub.private |= {name} if asked.get("private") or asked.get("visibility") == "private" else set()
            return self.answer(200, {"url": f"{hub.address}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision|tree)/[^/]+)?(?:/.*)?", path)
        served = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        name, what = (found or served).groups() if found or served else ("", "")
        files = hub.repositories.get(name)
        if files is None:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if served:
            if what not in files:
                return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return self.answer(200, files[what], ETag=f'"{hashlib.sha1(files[what]).hexdigest()}"')
        if what == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(200, {"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in asked]})
        if what == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(200, {"commitUrl": f"{hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "hookOutput": ""})
        if what == "tree":
            sizes = {file: {"size": len(content), "oid": hashlib.sha1(content).hexdigest()} for file, content in files.items()}
            return self.answer(200, [{"type": "file", "path": file, **about} for file, about in sizes.items()])
        return self.answer(200, {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})

    do_GET = do_POST = do_HEAD = handle_call  # noqa: N815

"""A hub on this computer: what `huggingface_hub` asks of the real one to create, fill and fetch
model repositories, and no more.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret"


class SmallHub:
    """``repos``: the files of each ``owner/name``. Everyone may read; only who shows `TOKEN` may
    write.
    """

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(
                self, status: int, body: "bytes | dict | list" = b"", **headers: str
            ) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for k, v in {
                    "Content-Length": str(len(data)),
                    **{k.replace("_", "-"): v for k, v in headers.items()},
                }.items():
                    self.send_header(k, v)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                path = urlsplit(self.path).path.strip("/").split("/")
                if path == ["api", "validate-yaml"]:
                    return self.answer(200, {"errors": [], "warnings": []})
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.answer(401, {"error": "Invalid username or password."})
                if path == ["api", "repos", "create"]:
                    asked = json.loads(data)
                    repo = f"{asked['organization']}/{asked['name']}"
                    hub.repos.setdefault(repo, {})
                    return self.answer(200, {"url": f"{hub.url}/{repo}"})
                repo, what = "/".join(path[2:4]), path[4]
                if what == "preupload":
                    files = json.loads(data)["files"]
                    return self.answer(
                        200,
                        {
                            "files": [
                                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                                for f in files
                            ]
                        },
                    )
                for line in map(json.loads, data.splitlines()):
                    if line["key"] == "file":
                        hub.repos[repo][line["value"]["path"]] = base64.b64decode(
                            line["value"]["content"]
                        )
                sha = hub.sha(repo)
                return self.answer(
                    200,
                    {
                        "success": True,
                        "commitUrl": f"{hub.url}/{repo}/commit/{sha}",
                        "commitOid": sha,
                    },
                )

            def do_GET(self):
                path = unquote(urlsplit(self.path).path).strip("/").split("/")
                api = path[:2] == ["api", "models"]
                repo, rest = (
                    ("/".join(path[2:4]), path[4:]) if api else ("/".join(path[:2]), path[2:])
                )
                if repo not in hub.repos:
                    return self.answer(
                        404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound"
                    )
                files, sha = hub.repos[repo], hub.sha(repo)
                if api and rest[:1] == ["tree"]:
                    return self.answer(
                        200,
                        [
                            {"type": "file", "path": k, "size": len(v), "oid": hub.blob(v)}
                            for k, v in files.items()
                        ],
                    )
                if api:
                    return self.answer(
                        200,
                        {
                            "id": repo,
                            "sha": sha,
                            "siblings": [{"rfilename": k} for k in files],
                            "private": False,
                            "tags": [],
                        },
                    )
                name = "/".join(rest[2:])
                if name not in files:
                    return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
                return self.answer(
                    200, files[name], ETag=f'"{hub.blob(files[name])}"', X_Repo_Commit=sha
                )

            do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def blob(data: bytes) -> str:
        return hashlib.sha1(data).hexdigest()

    def sha(self, repo: str) -> str:
        return self.blob(
            json.dumps({k: self.blob(v) for k, v in sorted(self.repos[repo].items())}).encode()
        )

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

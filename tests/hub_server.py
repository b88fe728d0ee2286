"""A small Hub on loopback: as much of the Hugging Face Hub's HTTP interface as `huggingface_hub` and `datasets` use.

    python tests/hub_server.py --port 8123

serves one user, `someone`, with the token `hf_good`, in memory, until it is stopped. As on the Hub, writing needs the
token of the namespace, small text files are committed as they are, others by LFS, and are served through a redirection.
"""

import argparse
import base64
import hashlib
import json
import re
import secrets
import sys
import threading
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BIG_BYTES = 1_000_000
UNKNOWN_TOKEN = "Invalid credentials in Authorization header"
KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


@dataclass
class StoredFile:
    """A committed file."""

    content: bytes
    is_lfs: bool

    @cached_property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def info(self, path: str) -> dict:
        info = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.is_lfs:
            info["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return info


@dataclass
class Repository:
    """A repository: its commits, and the branches and tags that name them."""

    private: bool = False
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.commit("main", {})

    def commit(self, branch: str, files: dict[str, StoredFile]) -> str:
        sha = secrets.token_hex(20)
        self.commits[sha], self.refs[branch] = files, sha
        return sha

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    def files(self, revision: str = "main") -> dict[str, StoredFile]:
        return self.commits[self.find(revision)]


class HubServer(ThreadingHTTPServer):
    """The server; use it as a context, which runs it in a thread.

    Attributes:
        repositories: Repositories by kind and name, such as `("models", "someone/smcl-demo")`.
        requests: Method, path and `Range` of each request, in order.
        cuts: How often the body of a file is still to be cut off halfway, by the end of its path.
    """

    daemon_threads = True
    users = {"hf_good": "someone"}

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), HubHandler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cuts: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


class HubError(Exception):
    """What is answered in place of what was asked for."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    # Headers and body go out in packets of their own: without this, each answer waits for an acknowledgement.
    disable_nagle_algorithm = True
    server: HubServer
    # The first pattern that fits decides; groups are arguments.
    routes = [
        ("POST", r"/api/repos/create", "create_repository"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate_card"),
        ("POST", r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("POST", r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/branch/([^/]+)", "create_branch"),
        ("POST", r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/paths-info/([^/]+)", "paths_info"),
        ("GET", r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", "tree"),
        ("GET", r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/refs", "refs"),
        ("GET", r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/revision/([^/]+))?", "information"),
        ("POST", r"/(datasets/|spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/([0-9a-f]{64})", "lfs_upload"),
        ("POST", r"/lfs/([0-9a-f]{64})/verify", "lfs_verify"),
        ("GET", r"/lfs/([0-9a-f]{64})", "lfs_download"),
        ("GET", r"/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    ]

    def log_message(self, *_):
        pass

    def handle_method(self):
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.body = self.read_body()
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        try:
            for method, pattern, name in self.routes:
                match = re.fullmatch(pattern, parts.path)
                if match and self.command.replace("HEAD", "GET") == method:
                    groups = (None if group is None else unquote(group) for group in match.groups())
                    return getattr(self, name)(*groups)
            raise HubError(404, f"no such address: {self.command} {self.path}")
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self.send_json({"error": error.message}, error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_method

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def send_body(self, body: bytes, status: int = 200, headers: dict | None = None, sent: int | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
            self.close_connection |= sent is not None

    def send_json(self, value, status: int = 200, headers: dict | None = None):
        self.send_body(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    # Who asks, and for what

    def user(self) -> str | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = self.server.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, UNKNOWN_TOKEN)
        return user

    def writer_of(self, name: str) -> str:
        user = self.user()
        if user is None:
            raise HubError(401, UNKNOWN_TOKEN)
        if name.split("/")[0] != user:
            raise HubError(403, f"You don't have the rights to write to the namespace {name.split('/')[0]!r}")
        return user

    def repository(self, kind: str | None, name: str, writes: bool = False) -> Repository:
        kind = (kind or "models").rstrip("/")
        user = self.writer_of(name) if writes else self.user()
        repository = self.server.repositories.get((kind, name))
        if repository is None or (repository.private and user != name.split("/")[0]):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repository

    def commit_of(self, repository: Repository, revision: str | None) -> str:
        sha = repository.find(revision or "main")
        if sha is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    # Repositories

    def whoami(self):
        user = self.writer_of(f"{self.user()}/")
        self.send_json({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create_repository(self):
        asked = json.loads(self.body)
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or self.writer_of(f'{self.user()}/')}/{asked['name']}"
        self.writer_of(name)
        url = f"{self.server.url}/{KINDS[kind]}{name}"
        if (kind, name) in self.server.repositories:
            return self.send_json({"error": "You already created this repo", "url": url, "name": name}, 409)
        self.server.repositories[kind, name] = Repository(private=asked.get("visibility") == "private")
        self.send_json({"url": url, "name": name})

    def create_branch(self, kind: str, name: str, branch: str):
        repository = self.repository(kind, name, writes=True)
        if branch in repository.refs:
            raise HubError(409, f"Reference already exists: {branch}")
        start = json.loads(self.body or "{}").get("startingPoint")
        repository.refs[branch] = self.commit_of(repository, start)
        self.send_json({})

    def validate_card(self):
        content = json.loads(self.body)["content"]
        if not re.match(r"---\n.*?\n---\n", content, re.DOTALL):
            raise HubError(400, "no metadata")
        self.send_json({"errors": [], "warnings": []})

    def refs(self, kind: str, name: str):
        refs = self.repository(kind, name).refs
        branches = [{"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": sha} for ref, sha in refs.items()]
        self.send_json({"branches": branches, "converts": [], "tags": []})

    def information(self, kind: str, name: str, revision: str | None):
        repository = self.repository(kind, name)
        sha = self.commit_of(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        facts = {"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []}
        self.send_json({**facts, "gated": False, "disabled": False, "downloads": 0, "likes": 0})

    def entries(self, kind: str, name: str, revision: str) -> dict[str, dict]:
        """Files and folders by path."""
        repository = self.repository(kind, name)
        files = repository.commits[self.commit_of(repository, revision)]
        folders = {path.rsplit("/", 1)[0] for path in files if "/" in path}
        found = {path: {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders}
        return found | {path: file.info(path) for path, file in files.items()}

    def tree(self, kind: str, name: str, revision: str, folder: str):
        found, prefix = self.entries(kind, name, revision), f"{folder}/" if folder else ""
        if folder and found.get(folder, {}).get("type") != "directory":
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        is_deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        paths = [path for path in sorted(found) if path.startswith(prefix)]
        self.send_json([found[path] for path in paths if is_deep or "/" not in path[len(prefix) :]])

    def paths_info(self, kind: str, name: str, revision: str):
        found = self.entries(kind, name, revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode()).get("paths", [])
        self.send_json([found[path] for path in asked if path in found])

    # Uploads

    def preupload(self, kind: str, name: str, revision: str):
        repository = self.repository(kind, name, writes=True)
        files = repository.commits[self.commit_of(repository, revision)]
        modes = []
        for file in json.loads(self.body)["files"]:
            is_text = b"\0" not in base64.b64decode(file["sample"]) and file["size"] < BIG_BYTES
            is_lfs = not is_text or file["path"].endswith((".safetensors", ".parquet"))
            oid = files[file["path"]].oid if file["path"] in files else None
            mode = {"uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, "oid": oid}
            modes.append({"path": file["path"], **mode})
        self.send_json({"files": modes})

    def lfs_batch(self, kind: str | None, name: str):
        self.repository(kind, name, writes=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            if asked["oid"] not in self.server.blobs:
                href = f"{self.server.url}/lfs/{asked['oid']}"
                asked["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(asked)
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the content does not have this SHA-256")
        self.server.blobs[oid] = self.body
        self.send_json({})

    def lfs_verify(self, oid: str):
        if len(self.server.blobs.get(oid, b"")) != json.loads(self.body)["size"]:
            raise HubError(400, "no such upload")
        self.send_json({})

    def commit(self, kind: str, name: str, branch: str):
        repository = self.repository(kind, name, writes=True)
        files = dict(repository.commits[self.commit_of(repository, branch)])
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = StoredFile(base64.b64decode(value["content"]), is_lfs=False)
            elif item["key"] == "lfsFile":
                files[value["path"]] = StoredFile(self.server.blobs[value["oid"]], is_lfs=True)
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(branch, files)
        url = f"{self.server.url}/{KINDS[kind]}{name}/commit/{sha}"
        self.send_json({"success": True, "commitOid": sha, "commitUrl": url})

    # Downloads

    def resolve(self, kind: str | None, name: str, revision: str, path: str):
        repository = self.repository(kind, name)
        sha = self.commit_of(repository, revision)
        headers = {"X-Repo-Commit": sha}
        file = repository.commits[sha].get(path)
        if file is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send_json({"error": "Entry not found"}, 404, headers)
        if not file.is_lfs:
            return self.send_body(file.content, headers={**headers, "ETag": f'"{file.oid}"'})
        self.server.blobs[file.sha256] = file.content
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": len(file.content)}
        # Content comes from another host, as on the Hub: clients follow redirections on the same one at once.
        headers["Location"] = f"http://localhost:{self.server.server_port}/lfs/{file.sha256}?path={path}"
        self.send_body(b"", 302, headers)

    def lfs_download(self, oid: str):
        body, path = self.server.blobs[oid], self.query.get("path", [""])[0]
        headers, status = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}, 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        end = next((end for end, times in self.server.cuts.items() if times and path.endswith(end)), None)
        if end is not None and self.command != "HEAD":
            self.server.cuts[end] -= 1
            return self.send_body(body, status, headers, sent=len(body) // 2)
        self.send_body(body, status, headers)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8123)
    server = HubServer(parser.parse_args().port)
    sys.stdout.write(f"export HF_ENDPOINT={server.url} HF_TOKEN=hf_good HF_HUB_DISABLE_XET=1 HF_HUB_OFFLINE=0\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()

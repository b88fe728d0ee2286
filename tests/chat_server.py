"""An endpoint on loopback that speaks as much of the OpenAI protocol as asking a language model takes."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-very-secret-0123456789"


@contextlib.contextmanager
def serve() -> Iterator[ThreadingHTTPServer]:
    """Answer by the behaviours in `server.script`, then well; note in `server.seen` what was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.seen.append((self.path, self.headers["Authorization"], body))
            behaviour = server.script.pop(0) if server.script else 200
            if behaviour == "cut":
                # Promises more than it sends.
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if behaviour == "drip":
                # Never so slow that one read takes long.
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for _ in range(30):
                        self.wfile.write(b" ")
                        threading.Event().wait(0.1)
                return
            if behaviour == "closed":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": f" {server.answer} "}}]})
            if isinstance(behaviour, str):
                reply = behaviour
            elif behaviour != 200:
                reply = json.dumps({"error": f"refused the key {self.headers['Authorization']}"})
            self.send_response(behaviour if isinstance(behaviour, int) else 200)
            self.send_header("Content-Length", str(len(reply)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.seen, server.answer = [], [], "Messi: PER"
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

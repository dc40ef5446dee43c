"""A relay in front of the engine's socket that can withhold the event stream, so that events are lost on purpose."""

import contextlib
import socket
import threading
from pathlib import Path


class EngineRelay:
    """Listens on `path` and passes everything to `engine`. While `deaf`, event streams are cut and new ones get no
    answer; all other calls go through."""

    def __init__(self, path: Path, engine: str = "/var/run/docker.sock") -> None:
        self.path = path
        self.deaf = False
        self._engine = engine
        self._streams: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        self._listener.bind(str(self.path))
        self.path.chmod(0o666)
        self._listener.listen(64)
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def go_deaf(self) -> None:
        self.deaf = True
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="relayed", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine, contextlib.suppress(OSError):
            engine.connect(self._engine)
            back = threading.Thread(target=self._pump, args=(engine, client), name="back", daemon=True)
            back.start()
            while data := client.recv(65536):
                if b"/events" in data.split(b"\r\n", 1)[0]:
                    self._streams.append(client)
                    if self.deaf:
                        continue
                engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)
            back.join(timeout=30)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

"""A small shop: the web app that the demo and the tests connect to a MariaDB database.

    app.py               serves HTTP on PORT (default 8080) until SIGTERM
    app.py query SQL     runs one query with one connection attempt, prints the rows; exit 0, or 1 with the reason

On SIGTERM it answers what it has in hand and closes its connections; with ON_SIGTERM=exit it is gone at once.

The database comes from DB_HOST, DB_PORT (3306), DB_NAME, DB_USER and DB_PASSWORD. Without DB_HOST the app runs and
says on its page that it has no database.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import os
import signal
import socket
import sys
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

CHUNK = 64 * 1024
# Ends before `docker stop` loses patience (10 s) and kills.
DRAIN_SECONDS = 8.0
CONNECT_SECONDS = 3

PRODUCTS = [(1, "Teapot", 2400), (2, "Strainer", 650), (3, "Darjeeling, 100 g", 1190)]


class DatabaseError(Exception):
    """The database could not be asked; the text says why, in one line."""


@dataclass(frozen=True)
class Database:
    """Where the rows are. Blocking: call it from a thread."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)

    @classmethod
    def from_environment(cls) -> Database | None:
        """None when DB_HOST is not set. Raises DatabaseError for a DB_PORT that is no number."""
        host = os.environ.get("DB_HOST", "")
        if not host:
            return None
        port = os.environ.get("DB_PORT") or "3306"
        if not port.isdecimal():
            raise DatabaseError(f"DB_PORT is {port!r}, which is not a port number")
        name, user, password = (os.environ.get(key, "") for key in ("DB_NAME", "DB_USER", "DB_PASSWORD"))
        return cls(host, int(port), name, user, password)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def connect(self) -> Any:
        """One attempt. Raises pymysql.MySQLError."""
        import pymysql  # here, so that the app starts without it

        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password.encode(),  # a str would go out as latin-1
            database=self.name or None,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=30,
            charset="utf8mb4",
            autocommit=True,
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of one statement. Raises DatabaseError."""
        import pymysql

        try:
            with closing(self.connect()) as connection, connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())
        except (pymysql.MySQLError, OSError) as error:
            raise DatabaseError(reason(error)) from error

    def visit(self, replica: str) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], int]:
        """Notes a visit; returns the products, the latest ten visits and the count of all. Raises DatabaseError."""
        import pymysql

        try:
            with closing(self.connect()) as connection, connection.cursor() as cursor:
                try:
                    cursor.execute("INSERT INTO visits (replica) VALUES (%s)", (replica,))
                except pymysql.err.ProgrammingError:
                    self._make_tables(cursor)
                    cursor.execute("INSERT INTO visits (replica) VALUES (%s)", (replica,))
                cursor.execute("SELECT id, name, cents FROM products ORDER BY id")
                products = list(cursor.fetchall())
                cursor.execute("SELECT id, replica, at FROM visits ORDER BY id DESC LIMIT 10")
                visits = list(cursor.fetchall())
                cursor.execute("SELECT COUNT(*) FROM visits")
                return products, visits, cursor.fetchone()[0]
        except (pymysql.MySQLError, OSError) as error:
            raise DatabaseError(reason(error)) from error

    @staticmethod
    def _make_tables(cursor: Any) -> None:
        """Replicas may do this at the same moment, so every statement can be said twice."""
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS products"
            " (id INT PRIMARY KEY, name VARCHAR(80) NOT NULL, cents INT NOT NULL) CHARACTER SET utf8mb4"
        )
        cursor.executemany("INSERT IGNORE INTO products VALUES (%s, %s, %s)", PRODUCTS)
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS visits (id INT AUTO_INCREMENT PRIMARY KEY, replica VARCHAR(80) NOT NULL,"
            " at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP) CHARACTER SET utf8mb4"
        )


def reason(error: BaseException) -> str:
    """One line: pymysql gives (number, text), the system gives a text."""
    if len(error.args) >= 2:
        return f"{error.args[1]} ({error.args[0]})"
    return str(error) or type(error).__name__


def query_once(sql: str) -> int:
    """The exit code of `app.py query`."""
    try:
        database = Database.from_environment()
        if database is None:
            raise DatabaseError("DB_HOST is not set")
        for row in database.query(sql):
            print("\t".join("NULL" if value is None else str(value) for value in row))
    except DatabaseError as error:
        print(f"query failed: {error}", file=sys.stderr)
        return 1
    return 0


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ text-align: left; padding: .2rem 1.5rem .2rem 0; border-bottom: 1px solid #ddd }}
.end {{ text-align: right }}
footer {{ color: #666; margin-top: 2rem }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
<footer>served by {replica}</footer>
</body>
</html>
"""


def page(title: str, body: str) -> str:
    return PAGE.format(title=html.escape(title), body=body, replica=html.escape(socket.gethostname()))


def table(caption: str, heads: list[str], rows: list[tuple[Any, ...]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    lines = "\n".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<h2>{html.escape(caption)}</h2>\n<table>\n<tr>{head}</tr>\n{lines}\n</table>\n"


def home_page() -> tuple[int, str]:
    """Status and HTML of `/`. Blocks on the database."""
    try:
        database = Database.from_environment()
        if database is None:
            return 200, page("Shop", "<p>No database is connected: DB_HOST is not set.</p>")
        products, visits, count = database.visit(socket.gethostname())
    except DatabaseError as error:
        host = html.escape(os.environ.get("DB_HOST", ""))
        return 503, page(
            "The database is not available", f"<p>No answer from <b>{host}</b>: {html.escape(str(error))}</p>"
        )
    priced = [(number, name, f"{cents / 100:.2f}") for number, name, cents in products]
    return 200, page(
        "Shop",
        f"<p>Rows read from MariaDB over <b>{html.escape(str(database))}</b>, visit {count}.</p>\n"
        + table("Products", ["no.", "product", "price"], priced)
        + table("Latest visits", ["no.", "served by", "at (UTC)"], visits),
    )


def serve(port: int) -> None:
    from aiohttp import WSCloseCode, web  # here, so that `query` starts without it

    sockets: set[web.WebSocketResponse] = set()
    in_flight = 0
    idle = asyncio.Event()
    draining = False

    @web.middleware
    async def count_requests(request: web.Request, handler: Any) -> web.StreamResponse:
        nonlocal in_flight
        in_flight += 1
        idle.clear()
        try:
            response: web.StreamResponse = await handler(request)
            if draining and not response.prepared:
                response.force_close()
            return response
        finally:
            in_flight -= 1
            if in_flight == 0:
                idle.set()

    def number(request: web.Request, key: str, default: float, limit: float) -> float:
        text = request.query.get(key, "")
        try:
            value = float(text) if text else default
        except ValueError:
            value = -1.0
        if not 0 <= value <= limit:
            raise web.HTTPBadRequest(text=f"{key} must be a number from 0 to {limit:g}, not {text!r}\n")
        return value

    async def digest(request: web.Request) -> dict[str, Any]:
        total, sha = 0, hashlib.sha256()
        async for data in request.content.iter_any():
            total += len(data)
            sha.update(data)
        return {"bytes": total, "sha256": sha.hexdigest()}

    async def home(request: web.Request) -> web.Response:
        status, text = await asyncio.to_thread(home_page)
        return web.Response(status=status, text=text, content_type="text/html")

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def echo(request: web.Request) -> web.Response:
        """Headers as a list of pairs, since names repeat and order matters to a proxy's tests."""
        headers = [[k.decode("latin-1"), v.decode("latin-1")] for k, v in request.raw_headers]
        return web.json_response(
            {
                "method": request.method,
                "target": request.raw_path,
                "version": f"{request.version.major}.{request.version.minor}",
                "headers": headers,
                "body": await digest(request),
                "peer": request.remote,
                "replica": socket.gethostname(),
            }
        )

    async def upload(request: web.Request) -> web.Response:
        return web.json_response(await digest(request))

    async def stream(request: web.Request) -> web.StreamResponse:
        """?bytes=N&delay=SECONDS between pieces &piece=SIZE; &chunked=1 sends no Content-Length."""
        left = int(number(request, "bytes", 1024 * 1024, 2**40))
        delay = number(request, "delay", 0, 60)
        piece = bytes(range(256)) * (CHUNK // 256)
        size = max(1, int(number(request, "piece", CHUNK, CHUNK)))
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        if request.query.get("chunked"):
            response.enable_chunked_encoding()
        else:
            response.content_length = left
        await response.prepare(request)
        if request.method == "HEAD":
            return response  # aiohttp would write the pieces all the same
        while left:
            data = piece[: min(size, left)]
            await response.write(data)
            left -= len(data)
            if delay and left:
                await asyncio.sleep(delay)
        await response.write_eof()
        return response

    async def slow(request: web.Request) -> web.Response:
        seconds = number(request, "seconds", 1, 3600)
        await asyncio.sleep(seconds)
        return web.Response(text=f"waited {seconds:g} s\n")

    async def websocket(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(timeout=1.0, max_msg_size=64 * 1024 * 1024)
        await ws.prepare(request)
        sockets.add(ws)
        try:
            async for message in ws:
                if isinstance(message.data, str):
                    await ws.send_str(message.data)
                elif isinstance(message.data, bytes):
                    await ws.send_bytes(message.data)
        finally:
            sockets.discard(ws)
        return ws

    async def main() -> None:
        nonlocal draining
        app = web.Application(middlewares=[count_requests])
        app.add_routes(
            [
                web.get("/", home),
                web.get("/healthz", healthz),
                web.get("/ws", websocket),
                web.get("/stream", stream),
                web.get("/slow", slow),
                web.route("*", "/upload", upload),
                web.route("*", "/echo", echo),
                web.route("*", "/echo/{rest:.*}", echo),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        assert runner.server is not None
        # Not a TCPSite: stopping one also ends the requests in flight, at once where they have a body.
        listener = await asyncio.get_running_loop().create_server(runner.server, "0.0.0.0", port, backlog=1024)
        stop = asyncio.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, stop.set)
        if os.environ.get("ON_SIGTERM") == "exit":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 143)
        print(f"listening on port {port}", flush=True)

        await stop.wait()
        draining = True
        print(f"stopping: {in_flight} requests in flight", flush=True)
        listener.close()
        await asyncio.gather(
            *(ws.close(code=WSCloseCode.GOING_AWAY, message=b"the app is stopping") for ws in sockets),
            return_exceptions=True,
        )
        try:
            if in_flight:
                await asyncio.wait_for(idle.wait(), DRAIN_SECONDS)
        except TimeoutError:
            print(f"gave up on {in_flight} requests after {DRAIN_SECONDS:g} s", flush=True)
        await runner.server.shutdown(1.0)
        await runner.cleanup()

    asyncio.run(main())


def command(arguments: list[str]) -> int:
    if arguments[:1] == ["query"] and len(arguments) == 2:
        return query_once(arguments[1])
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    port = os.environ.get("PORT") or "8080"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        print(f"PORT is {port!r}, which is not a port number", file=sys.stderr)
        return 2
    try:
        serve(int(port))
    except OSError as error:
        print(f"cannot listen on port {port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))

"""The container that holds Debian's nginx, Apache, ab, h2load and slowhttptest. It uses the host's network."""

import os
from pathlib import Path

from e2e.node import run
from ports import free_port

IMAGE = "sidegate-interop"
NOT_OURS = ("--label", "sidegate.instance=sginterop", "--label", "sidegate.enable=false")
MODULES = ("mpm_event", "authz_core", "dir", "mime", "alias", "cgid", "deflate", "filter")


class Toolbox:
    """`directory` is /srv in there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"sginterop-toolbox-{os.getpid()}"

    def start(self) -> None:
        self.directory.chmod(0o755)
        mount = ("-v", f"{self.directory}:/srv")
        run("docker", "run", "-d", "--init", "--name", self.name, "--network", "host", *NOT_OURS, *mount, IMAGE)

    def close(self) -> None:
        run("docker", "rm", "-f", self.name, check=False)

    def inside(self, *command: str) -> list[str]:
        """The words that run a command in there."""
        return ["docker", "exec", self.name, *command]

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """What a command prints, errors after the rest."""
        done = run(*self.inside(*command), check=check, timeout=timeout)
        return done.stdout + done.stderr

    def nginx(self, settings: str, locations: str = "") -> int:
        """Start an nginx that serves /srv/www, with these directives in `http` and `server`; returns its port."""
        port = free_port()
        pid = f"/srv/nginx-{port}.pid"
        config = f"""
user root;
worker_processes 1;
pid {pid};
error_log /srv/nginx-{port}.log;
events {{ worker_connections 4096; }}
http {{
  include /etc/nginx/mime.types;
  access_log off;
  client_body_temp_path /tmp/nginx-{port};
  {settings}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    root /srv/www;
    {locations}
  }}
}}
"""
        self._write(f"nginx-{port}.conf", config)
        self.run("nginx", "-c", f"/srv/nginx-{port}.conf")
        return port

    def apache(self, settings: str) -> int:
        """Start an Apache that serves /srv/www and runs /srv/cgi/*.cgi, with these directives; returns its port."""
        port = free_port()
        modules = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in MODULES)
        config = f"""
{modules}
ServerRoot /etc/apache2
ServerName apache.test
Listen 127.0.0.1:{port}
User www-data
Group www-data
PidFile /tmp/apache-{port}.pid
DefaultRuntimeDir /tmp
ScriptSock /tmp/apache-{port}.cgi
ErrorLog /srv/apache-{port}.log
TypesConfig /etc/mime.types
DocumentRoot /srv/www
ScriptAlias /cgi/ /srv/cgi/
<Directory /srv>
  Require all granted
</Directory>
{settings}
"""
        self._write(f"apache-{port}.conf", config)
        self.run("apache2", "-f", f"/srv/apache-{port}.conf", "-k", "start")
        return port

    def stop(self, server: str, port: int) -> None:
        """End an `nginx` or `apache` and wait for its port."""
        place = {"nginx": "/srv", "apache": "/tmp"}[server]
        self.run("sh", "-c", f"kill -9 -- -$(cat {place}/{server}-{port}.pid)", check=False)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> Path:
        """A file below /srv that everybody may read."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o755)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def _write(self, name: str, text: str) -> None:
        self.file(name, text.encode())

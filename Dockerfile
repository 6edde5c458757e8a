# syntax=docker/dockerfile:1
#
#   docker build .                   the agent, circusctl and circus-top on Debian slim
#   docker build --target demo .     the same with Python and Celery, for docker-compose.yml

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY lua lua
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked --bins \
    && install -D --target-directory /out target/release/circus-agent target/release/circusctl target/release/circus-top

FROM debian:bookworm-slim AS base
RUN useradd --system --uid 10001 --home-dir /var/lib/circus --shell /usr/sbin/nologin circus \
    && install --directory --owner circus --group circus --mode 0700 /run/circus /var/lib/circus \
    && install --directory /etc/circus
COPY --from=build /out/ /usr/bin/
ENV CIRCUS_CONTROL_SOCKET=/run/circus/agent.sock \
    CIRCUSCTL_ENDPOINT=unix:///run/circus/agent.sock
USER circus
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["circusctl", "status"]
ENTRYPOINT ["circus-agent"]
CMD ["/etc/circus/circus.ini"]

FROM base AS demo
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY tests/celery/requirements.txt /srv/demo/
RUN python3 -m venv /srv/venv && /srv/venv/bin/pip install --no-cache-dir --requirement /srv/demo/requirements.txt
ENV PATH=/srv/venv/bin:$PATH
COPY packaging/docker/tasks.py /srv/demo/
COPY packaging/docker/circus.ini /etc/circus/
USER circus

# The last stage is what is built when none is named.
FROM base AS agent

# Builds a small image of the gateway. The dependencies have a layer of their own, since aws-sdk-ec2
# alone takes minutes. Docker rebuilds that layer only if Cargo.toml, Cargo.lock, build.rs or the
# contract changes.
FROM docker.io/library/rust:1.95-slim-bookworm AS build
# jemalloc is built by make.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
RUN mkdir src benches \
    && echo '//! A placeholder while the dependencies are built.' > src/lib.rs \
    && for name in src/main benches/list benches/growth benches/crowd benches/contention; do \
        { cat src/lib.rs; echo 'fn main() {}'; } > "$name.rs"; \
    done \
    && cargo build --release --locked --features jemalloc \
    && rm -r src benches
COPY src src
COPY benches benches
# cargo compares modification times, and the placeholders are newer than the real files.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked --features jemalloc

FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 --no-create-home --shell /usr/sbin/nologin amistore
COPY --from=build /build/target/release/amistore-gateway /usr/local/bin/amistore-gateway
USER 65532:65532
# All addresses of IPv6 and IPv4: the loopback of a container cannot be reached from outside.
ENV AMISTORE_LISTEN=[::]:50051 \
    AMISTORE_DEMO_LISTEN=[::]:50051 \
    AMISTORE_DEMO_ADMIN_LISTEN=127.0.0.1:9464 \
    AMISTORE_DEMO_SIMULATOR_LISTEN=[::]:50052 \
    AMISTORE_SIMULATE_LISTEN=[::]:50052
EXPOSE 50051 50052
# Asks the admin listener, which is on the loopback unless AMISTORE_ADMIN_LISTEN says otherwise; without
# one, the port of AMISTORE_LISTEN.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["amistore-gateway", "probe"]
ENTRYPOINT ["amistore-gateway"]
CMD ["serve"]

# The image of neurobridge: docker build -t neurobridge:0.1.0 .
# Needs BuildKit, the default builder since Docker 23.

# The manifests of the workspace without its code. They change only with the dependencies, so the layer that compiles
# the dependencies stays in the cache when only code changes.
FROM rust:1.95.0-bookworm AS manifests
# Any failing command fails the build.
SHELL ["/bin/bash", "-e", "-o", "pipefail", "-c"]
WORKDIR /workspace
COPY . .
RUN find crates -type f ! -name Cargo.toml -delete; \
    rm -r config docs; \
    for manifest in crates/*/Cargo.toml tests/Cargo.toml xtask/Cargo.toml; do \
        folder="$(dirname "$manifest")"; \
        mkdir -p "$folder/src"; \
        touch "$folder/src/lib.rs"; \
        echo 'fn main() {}' > "$folder/src/main.rs"; \
        sed -n 's/^path = "\(src\/bin\/.*\.rs\)"$/\1/p' "$manifest" | while read -r program; do \
            mkdir -p "$(dirname "$folder/$program")"; \
            echo 'fn main() {}' > "$folder/$program"; \
        done; \
    done; \
    find . -exec touch --date=@0 {} +

# This image contains the C compiler, make and perl, which librdkafka and its OpenSSL need.
FROM rust:1.95.0-bookworm AS build
WORKDIR /workspace
# Function names are kept, so that a panic is readable.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
COPY --from=manifests /workspace .
RUN cargo build --release --locked --package neurobridge
COPY . .
# The commit that `neurobridge --version` names: docker build --build-arg COMMIT="$(git rev-parse --short=12 HEAD)" .
ARG COMMIT=""
ENV NEUROBRIDGE_COMMIT=$COMMIT
# Cargo compiles only files that are newer than the last compilation, and the files of a checkout may be older than the
# compilation of the empty files above.
RUN find crates -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --package neurobridge \
 && install -D target/release/neurobridge /image/usr/local/bin/neurobridge \
 && install -D /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && install -d -o 10001 -g 10001 -m 0700 /image/var/lib/neurobridge

# The program needs glibc, libgcc and certificates. Distroless contains them and is about 50 MB smaller, but its tags
# have no versions and change, and it has no shell for debugging.
FROM debian:12.12-slim
COPY --from=build /image /
# In a container only a server that listens on all addresses is reachable from outside. Environment variables override
# the configuration file.
ENV NEUROBRIDGE__DATA_DIR=/var/lib/neurobridge \
    NEUROBRIDGE__HTTP__LISTEN=0.0.0.0:9797
# A numeric user, so that Kubernetes can verify that it is not root.
USER 10001:10001
# Relative paths in neurobridge.toml refer to this folder.
WORKDIR /etc/neurobridge
EXPOSE 9797
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["neurobridge", "healthcheck", "--url", "http://127.0.0.1:9797"]
ENTRYPOINT ["neurobridge"]
CMD ["run"]

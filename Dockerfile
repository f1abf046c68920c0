# The image of neurobridge: docker build -t neurobridge:0.1.0 .
# BuildKit is needed, which docker build is since Docker 23.

# The whole workspace without its code: what the dependencies follow from. Its files are the same as long as no manifest
# changes, and so the layer that compiles the dependencies stays in the cache, whatever changes in the code.
FROM rust:1.95.0-bookworm AS manifests
# A failure anywhere ends the build.
SHELL ["/bin/bash", "-e", "-o", "pipefail", "-c"]
WORKDIR /workspace
COPY . .
RUN find crates -type f ! -name Cargo.toml -delete; \
    rm -r config; \
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

# The image of this version of Debian has the C compiler, make and perl that librdkafka and its OpenSSL are built with.
FROM rust:1.95.0-bookworm AS build
WORKDIR /workspace
# Names of functions stay, so that a panic can be read.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
COPY --from=manifests /workspace .
RUN cargo build --release --locked --package neurobridge
COPY . .
# Cargo goes by the time of a file, and a checkout may be older than the empty files compiled above.
RUN find crates -name '*.rs' -exec touch {} + \
 && cargo build --release --locked --package neurobridge \
 && install -D target/release/neurobridge /image/usr/local/bin/neurobridge \
 && install -D /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
 && install -d -o 10001 -g 10001 -m 0700 /image/var/lib/neurobridge

# The program needs glibc, libgcc and certificates. Distroless has these too and is smaller by some 50 MB; but its tags name
# no version and move, and it has no shell to look around with when something is wrong.
FROM debian:12.12-slim
COPY --from=build /image /
# In a container the outside reaches only what listens at all addresses. The environment goes above the file.
ENV NEUROBRIDGE__DATA_DIR=/var/lib/neurobridge \
    NEUROBRIDGE__HTTP__LISTEN=0.0.0.0:9797
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
# Files that neurobridge.toml names are found beside it.
WORKDIR /etc/neurobridge
EXPOSE 9797
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["neurobridge", "healthcheck", "--url", "http://127.0.0.1:9797"]
ENTRYPOINT ["neurobridge"]
CMD ["run"]

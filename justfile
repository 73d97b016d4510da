# The recipes, for people. `just` lists them; each is one command, so that none is needed.

# List the recipes.
default:
    @just --list

# The main job on an embedded simulator.
demo:
    cargo run -- demo

# All tests in Rust.
test:
    cargo test

# Format, lints and docs, as CI has them.
lint:
    cargo fmt --check
    cargo clippy --all-targets -- --deny warnings
    RUSTDOCFLAGS="--deny warnings" cargo doc --no-deps --document-private-items

# Clients in other languages against a built gateway.
interop:
    cargo build
    tests/interop/run.sh

# All figures of docs/performance.md: `list` (wants h2load), `growth` or `crowd`; without one, all.
bench name="*":
    cargo bench --bench '{{name}}'

# The container image, with Docker, Podman or Buildah.
image tool="docker":
    {{tool}} build --tag amistore-gateway .

# Write docs/errors.md anew from the tables in the code.
errors:
    AMISTORE_BLESS=1 cargo test the_document_is_the_table

# All that CI runs.
ci:
    .ci/run

# Recipes for development. `just` lists them. Each recipe is one or a few plain commands, so just is
# optional.

# List the recipes.
default:
    @just --list

# Show the gateway at work on an embedded simulator.
demo:
    cargo run -- demo

# Run all tests in Rust.
test:
    cargo test

# Check format, lints, docs and dependencies, as CI does. Needs cargo-deny.
lint:
    cargo fmt --check
    cargo clippy --all-targets -- --deny warnings
    RUSTDOCFLAGS="--deny warnings" cargo doc --no-deps --document-private-items
    cargo deny check bans licenses sources

# Try the properties of the cache on a million stories of a random seed, which is printed.
nightly:
    AMISTORE_CASES=250 AMISTORE_SEED=random cargo test --locked --lib cache::tests::model

# Mutate files (a glob, such as 'src/watch/*.rs') in place, and run tests on each mutant: a shard of them, in about
# half an hour. Needs cargo-mutants and a clean work tree. `tests` are arguments of cargo test.
mutants files="src/api/*.rs" shard="0/8" tests="--lib --test gateway":
    git diff --quiet
    cargo mutants --in-place --timeout 240 --build-timeout 600 --file '{{files}}' --shard {{shard}} --output target -- {{tests}}

# Test clients in other languages against a built gateway.
interop:
    cargo build
    tests/interop/run.sh

# Measure the figures of docs/performance.md: `list` (needs h2load), `growth`, `crowd` or
# `contention`. Default: all.
bench name="*":
    cargo bench --bench '{{name}}'

# Attack a release build for a minute each (`measure.py --help` lists the attacks), and print a table.
attacks *arguments:
    cargo build --release
    python3 tests/attacks/measure.py {{arguments}}

# Stop a release build under load, a hundred times. Needs the clients of `just interop`.
drains runs="100" *arguments:
    cargo build --release
    tests/interop/.work/venv/bin/python tests/attacks/drain.py --runs {{runs}} {{arguments}}

# Build the container image with Docker, Podman or Buildah.
image tool="docker":
    {{tool}} build --tag amistore-gateway .

# Rewrite docs/errors.md from the tables in the code.
errors:
    AMISTORE_BLESS=1 cargo test the_document_is_the_table

# Rewrite README's table of flags from the definition of the command line.
flags:
    AMISTORE_BLESS=1 cargo test readme_table

# Run every check of a commit.
ci:
    .ci/run

# Run the checks of a release.
release:
    .ci/release

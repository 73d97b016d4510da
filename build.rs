//! Compiles the contract with protox, a protobuf compiler in Rust, so that a build needs no protoc.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const PROTO: &str = "amistore/v1/store_image_task_service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    // Source info carries the comments of the contract, which reflection sends to clients.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true);
    compiler.include_source_info(true);
    compiler.open_file(PROTO)?;
    let descriptors = compiler.file_descriptor_set();

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("amistore_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors.clone())?;

    // The server receives and sends a List as encoded bytes, so that a cached response costs no
    // decoding and no encoding.
    let server = out.join("server");
    fs::create_dir_all(&server)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(server)
        .extern_path(".amistore.v1", "crate::proto")
        .extern_path(".amistore.v1.ListStoreImageTasksRequest", "crate::proto::EncodedListRequest")
        .extern_path(
            ".amistore.v1.ListStoreImageTasksResponse",
            "crate::proto::EncodedListResponse",
        )
        .codec_path("crate::proto::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}

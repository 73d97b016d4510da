//! Compiles the contract with protox, a protobuf compiler in Rust: a build needs no protoc.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const PROTO: &str = "amistore/v1/store_image_task_service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    // The compiler keeps the source info, so that reflection serves the comments of the contract too.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true);
    compiler.include_source_info(true);
    compiler.open_file(PROTO)?;
    let descriptors = compiler.file_descriptor_set();

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("amistore_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors.clone())?;

    // The server knows a List by its bytes, and sends one that was encoded before.
    let server = out.join("server");
    fs::create_dir_all(&server)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(server)
        .extern_path(".amistore.v1", "crate::proto")
        .extern_path(".amistore.v1.ListStoreImageTasksRequest", "crate::grpc::EncodedRequest")
        .extern_path(".amistore.v1.ListStoreImageTasksResponse", "crate::grpc::EncodedList")
        .codec_path("crate::grpc::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}

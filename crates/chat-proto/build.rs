//! Compiles `proto/chat/v1/*.proto` with a protobuf compiler written in Rust, so that no `protoc` is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["chat/v1/chat.proto", "chat/v1/admin.proto", "chat/v1/replica.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").build_server(false).compile_fds(descriptors.clone())?;
    // The services by themselves, on the same types but for one: see src/page.rs.
    let services = PathBuf::from(std::env::var("OUT_DIR")?).join("services");
    std::fs::create_dir_all(&services)?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".chat.v1", "crate::v1")
        .extern_path(".chat.v1.HistoryResponse", "crate::HistoryPage")
        .out_dir(services)
        .compile_fds(descriptors)?;
    Ok(())
}

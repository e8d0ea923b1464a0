//! Generates the Rust types from the `.proto` files with a pure-Rust compiler: no `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "envoy/config/core/v3/base.proto",
        "envoy/extensions/transport_sockets/tls/v3/secret.proto",
        "envoy/service/discovery/v3/discovery.proto",
        "envoy/service/secret/v3/sds.proto",
        "google/rpc/status.proto",
        "opentelemetry/proto/collector/trace/v1/trace_service.proto",
        "postern/mesh/v1/resources.proto",
        "postern/mesh/v1/request_authentication.proto",
        "postern/mesh/v1/certificate.proto",
        "postern/mesh/v1/revocation.proto",
        "postern/mesh/v1/edge.proto",
        "postern/mesh/v1/key_set.proto",
        "postern/mesh/v1/latency_budget.proto",
        "postern/mesh/v1/report.proto",
        "postern/mesh/v1/tap.proto",
        "postern/mesh/v1/verdict.proto",
        "postern/admin/v1/admin.proto",
        "spiffe/workload.proto",
        "postern/admin/v1/authority.proto",
    ];
    println!("cargo:rerun-if-changed=envoy");
    println!("cargo:rerun-if-changed=google");
    println!("cargo:rerun-if-changed=opentelemetry");
    println!("cargo:rerun-if-changed=postern");
    println!("cargo:rerun-if-changed=spiffe");
    let descriptors = protox::compile(files, ["."])?;
    let mut config = tonic_prost_build::Config::new();
    config.btree_map(["."]);
    tonic_prost_build::configure()
        // Shares one serialization of a resource between all streams that carry it.
        .bytes(".google.protobuf.Any.value")
        .extern_path(".google.protobuf.Any", "crate::Any")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

//! The contract on the wire.
//!
//! Generated from the `.proto` files beside this crate: the part of Envoy's xDS transport and secrets that is spoken here,
//! the SPIFFE Workload API and OTLP (wire-compatible: same packages, names and field numbers), and Postern's own resources
//! and services. Field documentation lives in the `.proto` files.

#![allow(
    missing_docs,
    clippy::pedantic,
    clippy::doc_markdown,
    clippy::large_enum_variant,
    unreachable_pub
)]

/// Envoy's core types.
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                pub mod v3 {
                    tonic::include_proto!("envoy.extensions.transport_sockets.tls.v3");
                }
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
        pub mod secret {
            pub mod v3 {
                tonic::include_proto!("envoy.service.secret.v3");
            }
        }
    }
}

/// Google's published error model.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// OTLP: spans and the collector's service, as OpenTelemetry publishes them.
pub mod opentelemetry {
    pub mod proto {
        pub mod collector {
            pub mod trace {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
                }
            }
        }
        pub mod common {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.common.v1");
            }
        }
        pub mod resource {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.resource.v1");
            }
        }
        pub mod trace {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.trace.v1");
            }
        }
    }
}

/// Postern's own packages, nested as their references to each other expect.
pub mod postern {
    pub mod mesh {
        pub mod v1 {
            tonic::include_proto!("postern.mesh.v1");
        }
    }
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("postern.admin.v1");
        }
    }
}

/// The SPIFFE Workload API, which has no package of its own.
pub mod workload {
    tonic::include_proto!("_");
}

pub use envoy::extensions::transport_sockets::tls::v3 as tls;
pub use envoy::service::discovery::v3 as discovery;
pub use envoy::service::secret::v3 as secret;
/// The administration service.
pub use postern::admin::v1 as admin;
/// Resources, the certificate service and the report service.
pub use postern::mesh::v1 as mesh;

pub mod alias;
mod any;
pub use any::{Any, ResourceType, TypedResource};

//! The contract on the wire.
//!
//! Generated from the `.proto` files beside this crate: the part of Envoy's xDS transport and secrets that is spoken here
//! and the SPIFFE Workload API (wire-compatible: same packages, names and field numbers), and Postern's own resources and
//! services. Field documentation lives in the `.proto` files.

#![allow(missing_docs, clippy::pedantic, clippy::doc_markdown, unreachable_pub)]

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

/// Postern's resources and the certificate service.
pub mod mesh {
    tonic::include_proto!("postern.mesh.v1");
}

/// The administration service.
pub mod admin {
    tonic::include_proto!("postern.admin.v1");
}

/// The SPIFFE Workload API, which has no package of its own.
pub mod workload {
    tonic::include_proto!("_");
}

pub use envoy::extensions::transport_sockets::tls::v3 as tls;
pub use envoy::service::discovery::v3 as discovery;
pub use envoy::service::secret::v3 as secret;

mod any;
pub use any::{Any, ResourceType, TypedResource};

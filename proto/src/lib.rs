//! The contract on the wire.
//!
//! Two families, generated from the `.proto` files beside this crate: the part of Envoy's delta xDS transport that the
//! control stream uses (wire-compatible: same packages, names and field numbers), and Postern's own resources and
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
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
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

pub use envoy::service::discovery::v3 as discovery;

mod any;
pub use any::{Any, ResourceType, TypedResource};

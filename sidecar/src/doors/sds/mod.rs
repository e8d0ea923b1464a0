//! Envoy's secret discovery service (SDS v3): the same identity under the names that SPIRE's agent gives it.
//!
//! [`secrets`] says which name is what; [`session`] holds what one stream was sent and acknowledged, in both variants of
//! the protocol; the service here moves messages between them and the socket.

mod secrets;
mod service;
mod session;

pub use secrets::TYPE_URL;
pub use service::SecretDiscovery;

//! What puts load on a pair of proxies: an open loop for latencies, streams for gRPC, downloads, connections.

pub(crate) mod bulk;
pub(crate) mod callers;
pub(crate) mod constant;
pub(crate) mod first_byte;
pub(crate) mod http1;
pub(crate) mod open;
pub(crate) mod streams;
pub(crate) mod tls;

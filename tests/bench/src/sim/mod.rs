//! Simulated sidecars: the control stream of many sidecars in one process, without data planes.
//!
//! Each speaks the real protocol: TLS 1.3 with a certificate of its own, which it got for a certificate request and a join
//! token, then delta xDS with an ACK for every response. Of what arrives only names and times that somebody asked for are
//! kept, so that thousands fit into one process.

mod connect;
mod enrol;
mod expect;
mod fleet;
mod stream;

pub(crate) use connect::Target;
pub(crate) use enrol::enrol;
pub(crate) use fleet::Fleet;
pub(crate) use stream::Subscribe;

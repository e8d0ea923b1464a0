//! What is measured: one module per kind of process, and [`Pair`], which is all that measuring needs to know of it.

pub(crate) mod certificates;
pub(crate) mod envoy;
pub(crate) mod haproxy;
pub(crate) mod mesh_pair;
pub(crate) mod nginx;
pub(crate) mod postern;

use crate::kid::Kid;
use crate::load::callers;
use crate::probe;
use crate::wrk::Target;

/// A client-side and a server-side proxy with mutual TLS between them, before one application.
pub(crate) struct Pair {
    /// The client side's HTTP/1.1 listener.
    pub(crate) target: Target,
    /// The client side's listener for HTTP/2 with prior knowledge, if the way to an HTTP/2 application is built.
    pub(crate) grpc: Option<Target>,
    /// The server side's TLS listener, where it speaks HTTP/2.
    pub(crate) tls: Option<callers::Server>,
    /// Process of the client side.
    pub(crate) client: u32,
    /// Process of the server side.
    pub(crate) server: u32,
    /// What keeps the pair running.
    pub(crate) kids: Vec<Kid>,
    /// Files of the kids; after them, so that it is removed when they have ended.
    pub(crate) _folder: Option<tempfile::TempDir>,
}

impl Pair {
    /// Waits until the application's body comes through.
    async fn answers(&mut self, body: &str) -> anyhow::Result<()> {
        let mut kids: Vec<_> = self.kids.iter_mut().collect();
        probe::wait_for(&self.target, body, &mut kids).await
    }

    /// The same pair without what keeps it running, which somebody else holds.
    pub(crate) fn handle(&self) -> Self {
        Self {
            target: self.target.clone(),
            grpc: self.grpc.clone(),
            tls: self.tls.clone(),
            client: self.client,
            server: self.server,
            kids: Vec::new(),
            _folder: None,
        }
    }

    /// Fails when one of its processes has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.kids.iter_mut().try_for_each(Kid::check)
    }
}

//! Policy without a mesh: the engine that sidecars enforce with, on documents from files or from the store.
//!
//! [`Mesh`] knows which documents concern a workload; [`Case`] is one connection or request; [`explain`] says how it is
//! decided and why; [`suite`] runs tests, [`lint`] looks for mistakes. No I/O.

pub(crate) mod case;
pub(crate) mod explain;
pub(crate) mod lint;
pub(crate) mod mesh;
pub(crate) mod parts;
pub(crate) mod suite;
pub(crate) mod token;

pub(crate) use case::{Case, Http};
pub(crate) use mesh::{Mesh, Subject};

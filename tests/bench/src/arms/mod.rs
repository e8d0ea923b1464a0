//! What is measured: one module per kind of process, and [`Arm`], which is all that measuring needs to know of it.

pub(crate) mod haproxy;
pub(crate) mod nginx;
pub(crate) mod postern;

mod certificates;

use crate::kid::Kid;
use crate::pair::ArmName;
use crate::wrk::Target;

/// Something that answers, with the processes between its client and the application.
pub(crate) struct Arm {
    pub(crate) name: ArmName,
    pub(crate) target: Target,
    /// Processes whose time is counted, client side first.
    pub(crate) counted: Vec<u32>,
    /// Those of them on the server side.
    pub(crate) far: Vec<u32>,
    /// What keeps the arm running.
    pub(crate) kids: Vec<Kid>,
    /// Files of the kids; after them, so that it is removed when they have ended.
    pub(crate) _folder: Option<tempfile::TempDir>,
}

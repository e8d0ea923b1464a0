//! Between the workers, who meet destinations that the snapshot does not know, and the control thread, who asks the control API
//! for them.
//!
//! Workers leave questions here, which never blocks; the control thread answers each once the snapshot that knows the answer
//! is in force. What the application names is a [`Lookup`]; how much the snapshot knows of is a [`Scope`].

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_proto::alias;
use tokio::sync::watch;

use crate::mailbox::Mailbox;

/// Questions that wait. What does not fit is refused.
const QUEUE: usize = 1024;
/// Longest host name.
const MAX_HOST: usize = 253;

/// A destination as the application names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    /// The host of requests: lower-case, no port.
    Host(Box<str>),
    /// The address of connections; never an IPv4-mapped one.
    Address(IpAddr),
}

impl Lookup {
    /// `host`, lower-case and without port; `None`: no service can have it.
    pub fn host(host: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        let is_host = !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(fits);
        is_host.then(|| Self::Host(host.into()))
    }

    /// What is at `address`.
    pub fn address(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }

    /// As [`fmt::Display`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('/') {
            Some(address) => address.parse().ok().map(Self::address),
            None => Self::host(text),
        }
    }
}

/// The host, or `/<ip>`.
impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Address(address) => f.write_str(&alias::of_address(*address)),
        }
    }
}

/// What the control API said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The snapshot knows.
    Somebody,
    /// There is no such service or workload in the mesh.
    Nobody,
}

/// How much of what there is in the mesh is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every service and workload: what is not there is not in the mesh.
    Everything,
    /// The same but for these, at which there is something that cannot be read.
    EverythingBut(Arc<BTreeSet<Lookup>>),
    /// Every service and workload that there was when the control API was heard last, long ago: what is not there may be by
    /// now.
    LastKnown,
    /// What these stand for: of anything else nothing is known.
    Named(Arc<BTreeSet<Lookup>>),
}

impl Default for Scope {
    fn default() -> Self {
        Self::nothing()
    }
}

impl Scope {
    /// Nothing is known of anything.
    pub fn nothing() -> Self {
        Self::Named(Arc::default())
    }

    /// True when what is not held is not in the mesh, with few exceptions.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Everything | Self::EverythingBut(_))
    }

    /// True when no destination is subscribed to by name.
    pub fn is_of_all(&self) -> bool {
        !matches!(self, Self::Named(_))
    }

    /// Whether everything that `lookup` stands for is held.
    pub fn covers(&self, lookup: &Lookup) -> bool {
        match self {
            Self::Everything => true,
            Self::EverythingBut(unreadable) => !unreadable.contains(lookup),
            // Of what is held; what is not is not outside either.
            Self::LastKnown => true,
            Self::Named(names) => names.contains(lookup),
        }
    }
}

/// Which services and workloads are subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribe {
    /// All of them.
    All,
    /// Those that the application uses.
    Used,
}

/// What a worker wants to know.
#[derive(Debug)]
pub struct Question {
    /// Of what.
    pub lookup: Lookup,
    /// Takes the answer. Dropped without one: it cannot be asked for.
    pub answer: watch::Sender<Option<Found>>,
}

/// What is asked.
#[derive(Debug)]
pub struct Lookups {
    questions: Mailbox<Question>,
}

impl Lookups {
    /// Nothing is asked.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            questions: Mailbox::new(QUEUE),
        })
    }

    /// The next question.
    pub async fn next(&self) -> Question {
        self.questions.next().await
    }

    /// Asks; `None`: too many questions wait.
    pub fn ask(&self, lookup: Lookup) -> Option<watch::Receiver<Option<Found>>> {
        let (answer, answered) = watch::channel(None);
        let question = Question { lookup, answer };
        self.questions.leave(question).then_some(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_service_can_have_is_no_host() {
        for good in ["orders", "orders.demo.svc.cluster.local", "10.0.0.1", "a_b"] {
            assert!(Lookup::host(good).is_some(), "{good}");
        }
        let long = "a".repeat(MAX_HOST + 1);
        for bad in ["", "*", "Orders", "/10.0.0.1", "[::1]", "a b", &long] {
            assert!(Lookup::host(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_lookup_is_written_and_read() {
        for text in ["orders.demo", "/10.0.0.1", "/fd00::1"] {
            let lookup = Lookup::parse(text).expect("a lookup");
            assert_eq!(lookup.to_string(), text);
        }
        let mapped = Lookup::parse("/::ffff:10.0.0.1");
        assert_eq!(mapped, Lookup::parse("/10.0.0.1"));
        assert_eq!(Lookup::parse("/service/demo/orders"), None);
    }
}

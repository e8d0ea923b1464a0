//! Verdicts, and where they come from.

use crate::Reason;

/// Let in or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Let in.
    Allow,
    /// Refused.
    Deny,
}

/// A verdict and where it comes from. Borrows the set that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The deciding policy, `namespace/name`.
    pub policy: Option<&'a str>,
    /// Position of the deciding rule in it, from 0.
    pub rule: Option<u32>,
    /// Revision of the policies that decided; 0 when the set was compiled without one.
    pub revision: u64,
    /// The scope that would have opened the route; `None` where that would not have been enough.
    pub scope: Option<&'a str>,
}

impl Decision<'_> {
    /// True when it lets in.
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

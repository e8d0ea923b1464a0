//! Why the kernel's rules could not be read or changed, in sentences that say what to do.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// Why the rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The process may not change the rules of its network namespace.
    #[error(
        "{doing}: not permitted; capture needs CAP_NET_ADMIN: run as root or in the init container with NET_ADMIN{explanation}"
    )]
    NotPermitted {
        /// What was being done.
        doing: String,
        /// What the kernel added.
        explanation: Explanation,
    },
    /// The kernel lacks a part that capture needs.
    #[error(
        "{doing}: the kernel does not support it ({source}); capture needs nf_tables with inet NAT \
         (CONFIG_NF_TABLES_INET, NFT_NAT, NFT_REDIR, NFT_FIB_INET, NF_NAT; modules nft_chain_nat, nft_redir, \
         nft_fib_inet){explanation}"
    )]
    Unsupported {
        /// What was being done.
        doing: String,
        /// The kernel's error.
        source: io::Error,
        /// What the kernel added.
        explanation: Explanation,
    },
    /// Another program owns or uses what was to be changed.
    #[error(
        "{doing}: the kernel does not allow it now ({source}); another program holds the table `inet postern` or is changing \
         the rules: stop it, or run again{explanation}"
    )]
    Busy {
        /// What was being done.
        doing: String,
        /// The kernel's error.
        source: io::Error,
        /// What the kernel added.
        explanation: Explanation,
    },
    /// Any other refusal.
    #[error("{doing}: {source}{explanation}")]
    Refused {
        /// What was being done.
        doing: String,
        /// The kernel's error.
        source: io::Error,
        /// What the kernel added.
        explanation: Explanation,
    },
    /// The answer is not what the netlink protocol promises.
    #[error("{doing}: {what}")]
    Answer {
        /// What was being done.
        doing: String,
        /// What is wrong with the answer.
        what: &'static str,
    },
}

/// The kernel's own explanation of an error, if it gave one (`NETLINK_EXT_ACK`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation(Option<String>);

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => write!(f, " (kernel: {text})"),
            None => Ok(()),
        }
    }
}

impl CaptureError {
    /// A stable code for metrics and scripts.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted { .. } => "not_permitted",
            Self::Unsupported { .. } => "unsupported",
            Self::Busy { .. } => "busy",
            Self::Refused { .. } => "refused",
            Self::Answer { .. } => "malformed_answer",
        }
    }

    /// Sorts an error number of the kernel.
    pub(crate) fn new(doing: impl Into<String>, errno: Errno, explanation: Option<String>) -> Self {
        let doing = doing.into();
        let explanation = Explanation(explanation);
        let source = io::Error::from(errno);
        match errno {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted { doing, explanation },
            // A chain type or expression whose module is not there answers "no such file".
            Errno::OPNOTSUPP
            | Errno::NOENT
            | Errno::PROTONOSUPPORT
            | Errno::AFNOSUPPORT
            | Errno::NOSYS => Self::Unsupported {
                doing,
                source,
                explanation,
            },
            Errno::BUSY | Errno::EXIST | Errno::AGAIN => Self::Busy {
                doing,
                source,
                explanation,
            },
            _ => Self::Refused {
                doing,
                source,
                explanation,
            },
        }
    }

    /// Somebody else holds what was to be changed, whatever number the kernel has for that.
    pub(crate) fn busy(doing: &str, errno: Errno, explanation: Option<String>) -> Self {
        Self::Busy {
            doing: doing.to_owned(),
            source: errno.into(),
            explanation: Explanation(explanation),
        }
    }

    /// An error of the socket itself.
    pub(crate) fn io(doing: impl Into<String>, error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Self::new(doing, errno, None),
            None => Self::Refused {
                doing: doing.into(),
                source: error,
                explanation: Explanation(None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        for (errno, reason, says) in [
            (
                Errno::PERM,
                "not_permitted",
                "init container with NET_ADMIN",
            ),
            (Errno::OPNOTSUPP, "unsupported", "NFT_REDIR"),
            (Errno::NOENT, "unsupported", "nft_chain_nat"),
            (Errno::PROTONOSUPPORT, "unsupported", "nf_tables"),
            (Errno::BUSY, "busy", "stop it, or run again"),
            (Errno::INVAL, "refused", "Invalid argument"),
        ] {
            let error = CaptureError::new("adding chain `output`", errno, Some("why".to_owned()));
            let text = error.to_string();
            assert_eq!(error.reason(), reason);
            assert!(text.starts_with("adding chain `output`: "), "{text}");
            assert!(text.contains(says), "{text}");
            assert!(text.ends_with("(kernel: why)"), "{text}");
        }
    }
}

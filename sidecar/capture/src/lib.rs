//! Capture: nftables rules that redirect a workload's TCP connections to its sidecar, programmed over netlink.
//!
//! Owns the table `inet postern` of the current network namespace and nothing else. No `nft` or `iptables` program is
//! needed: the messages are encoded here. A change is one netlink batch, so that the rules are either all old or all new
//! and no connection slips through in between.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ruleset = mesh_capture::Ruleset::new(&mesh_capture::CaptureConfig::default())?;
//! print!("{ruleset}"); // the same rules as a script for `nft -f -`
//! mesh_capture::apply(&ruleset)?;
//! assert!(mesh_capture::check(&ruleset)?.is_some_and(|installed| installed.matches));
//! # Ok(())
//! # }
//! ```
//!
//! What is not captured, whatever the configuration:
//! - connections to an address of the workload itself (`fib daddr type local`: loopback, its own addresses), so that an
//!   application that talks to itself does so directly;
//! - UDP, ICMP, SCTP and everything else that is not TCP;
//! - processes that can set the sidecar's socket mark (needs `CAP_NET_ADMIN` or `CAP_NET_RAW`) or run as its user.
//!
//! A REDIRECT decides once per connection; the sidecar reads where the connection was going with `SO_ORIGINAL_DST`.
//! Connections that were open before the rules came keep their way.

mod cidr;
mod config;
mod error;
mod expr;
mod installed;
mod kernel;
pub mod probe;
mod ruleset;
mod socket;
mod wire;

pub use cidr::{Cidr, CidrError};
pub use config::{CaptureConfig, ConfigError};
pub use error::CaptureError;
pub use installed::Installed;
pub use kernel::{apply, check, installed, remove};
pub use ruleset::Ruleset;

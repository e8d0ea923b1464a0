//! HTTP(S) requests of the control API to others: key sets, discovery documents, federation bundles, cluster keys.
//!
//! What is fetched is named by documents that operators write and by answers of servers, so every address is judged
//! after it was resolved and before it is dialled ([`Guard`]); what comes back is bounded in size and time.

mod client;
mod freshness;
mod guard;
mod tls;
mod url;

pub use client::{Fetch, FetchError, Fetched, Fetcher, Settings};
pub use freshness::Freshness;
pub use guard::{Guard, Refusal};
pub use tls::{TlsError, client_config};
pub use url::{Scheme, Url, UrlError};

//! What is counted of tokens.

use std::cell::RefCell;
use std::sync::Arc;

use mesh_auth::token::Provider;
use metrics::{Counter, counter};

/// Label value of a refusal that no provider made.
const NOBODY: &str = "-";
/// Counters held by one worker.
const MAX_COUNTS: usize = 64;

/// Counters of verified tokens by their provider's name, so that a token costs neither labels nor a look-up by them.
#[derive(Default)]
pub(super) struct VerifiedCounts(RefCell<Vec<(Arc<str>, Counter)>>);

impl VerifiedCounts {
    pub(super) fn add(&self, provider: &Provider) {
        let mut counts = self.0.borrow_mut();
        let same = |(name, _): &&(Arc<str>, Counter)| Arc::ptr_eq(name, provider.name());
        if let Some((_, counter)) = counts.iter().find(same) {
            counter.increment(1);
            return;
        }
        // Rules that changed leave theirs behind.
        if counts.len() >= MAX_COUNTS {
            counts.clear();
        }
        let counter = verifications(provider.name().to_string(), "verified");
        counter.increment(1);
        counts.push((Arc::clone(provider.name()), counter));
    }
}

/// Counts what became of a token that was looked at.
pub(super) fn count(provider: Option<&Arc<Provider>>, result: &'static str) {
    // Providers are configured, not sent: the label is bounded.
    let provider = provider.map_or(NOBODY.to_owned(), |p| p.name().to_string());
    verifications(provider, result).increment(1);
}

fn verifications(provider: String, result: &'static str) -> Counter {
    counter!("postern_token_verifications_total", "provider" => provider, "result" => result)
}

/// Says what the metrics mean.
pub(super) fn describe() {
    metrics::describe_counter!(
        "postern_token_verifications_total",
        "Tokens verified or refused, by provider and result; repeated uses of a remembered token are lookups."
    );
    metrics::describe_counter!(
        "postern_token_cache_lookups_total",
        "Lookups in the caches of verified and of refused tokens, by result."
    );
    metrics::describe_counter!(
        "postern_token_cache_evictions_total",
        "Verified tokens forgotten to make room."
    );
}

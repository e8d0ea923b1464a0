//! Numbers for Prometheus, in its text format 0.0.4.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::federation;
use crate::keysets;
use crate::registry::World;
use crate::status::Tracker;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Certificates issued.
    pub certificates_issued: Counter,
    /// Certificate requests refused.
    pub certificates_refused: Counter,
    /// JWT-SVIDs issued.
    pub tokens_issued: Counter,
    /// JWT-SVID requests refused.
    pub tokens_refused: Counter,
    /// Resources rejected by sidecars.
    pub nacks: Counter,
    /// Connections whose handshake failed.
    pub handshakes_failed: Counter,
    /// Administrative calls refused.
    pub admin_refused: Counter,
}

/// The exposition.
pub fn text(metrics: &Metrics, tracker: &Tracker, world: &World, ca_not_after: i64) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    };
    family(
        "postern_control_streams",
        "gauge",
        "Discovery streams that are open.",
        &tracker.streams(),
    );
    family(
        "postern_control_revision",
        "gauge",
        "Revision of the store.",
        &world.revision,
    );
    family(
        "postern_control_workloads",
        "gauge",
        "Workloads that are registered.",
        &world.workloads().count(),
    );
    family(
        "postern_control_rejected_resources",
        "gauge",
        "Resources that connected sidecars rejected and do not hold.",
        &tracker.rejected(),
    );
    family(
        "postern_control_certificates_issued_total",
        "counter",
        "Certificates issued.",
        &metrics.certificates_issued.get(),
    );
    family(
        "postern_control_certificates_refused_total",
        "counter",
        "Certificate requests refused.",
        &metrics.certificates_refused.get(),
    );
    family(
        "postern_control_jwt_svids_issued_total",
        "counter",
        "JWT-SVIDs issued.",
        &metrics.tokens_issued.get(),
    );
    family(
        "postern_control_jwt_svids_refused_total",
        "counter",
        "JWT-SVID requests refused.",
        &metrics.tokens_refused.get(),
    );
    family(
        "postern_control_nacks_total",
        "counter",
        "Resources rejected by sidecars.",
        &metrics.nacks.get(),
    );
    family(
        "postern_control_handshakes_failed_total",
        "counter",
        "Connections whose TLS handshake failed.",
        &metrics.handshakes_failed.get(),
    );
    family(
        "postern_control_admin_refused_total",
        "counter",
        "Administrative calls refused.",
        &metrics.admin_refused.get(),
    );
    family(
        "postern_control_ca_expiry_timestamp_seconds",
        "gauge",
        "End of validity of the certificate authority.",
        &ca_not_after,
    );
    tracker.propagation().write(&mut out);
    out
}

/// Appends how the mesh stands with its latency budgets, as its sidecars report it.
pub fn latency_budgets(out: &mut String, breached: usize) {
    let name = "postern_control_latency_budgets_breached";
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "# HELP {name} Latency budgets that connected sidecars report as breached, each counted at every one.\n# TYPE {name} gauge\n{name} {breached}"
    );
}

/// Appends what is known of other trust domains' bundles.
pub fn foreign_bundles(out: &mut String, states: &[federation::State]) {
    type Value = fn(&federation::State) -> u64;
    let families: [(&str, &str, Value); 2] = [
        (
            "postern_control_foreign_bundle_confirmed_timestamp_seconds",
            "When the source confirmed the trust domain's bundle last; 0: never.",
            |s| u64::try_from(s.fetched_at).unwrap_or(0),
        ),
        (
            "postern_control_foreign_bundle_failing",
            "Whether the last attempt to get the trust domain's bundle failed.",
            |s| u64::from(!s.last_error.is_empty()),
        ),
    ];
    for (name, help, value) in families {
        if states.is_empty() {
            continue;
        }
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
        for state in states {
            let domain = &state.trust_domain;
            out.push_str(&format!(
                "{name}{{trust_domain=\"{domain}\"}} {}\n",
                value(state)
            ));
        }
    }
}

/// Appends what is known of each issuer's keys.
pub fn key_sets(out: &mut String, states: &[keysets::State]) {
    type Value = fn(&keysets::State) -> u64;
    let families: [(&str, &str, &str, Value); 5] = [
        (
            "postern_control_key_set_confirmed_timestamp_seconds",
            "gauge",
            "When the issuer confirmed its keys last; 0: never.",
            |s| u64::try_from(s.fetched_at).unwrap_or(0),
        ),
        (
            "postern_control_key_set_keys",
            "gauge",
            "Keys of the issuer in force.",
            |s| s.keys as u64,
        ),
        (
            "postern_control_key_set_ignored_keys",
            "gauge",
            "Keys of the issuer's last answer that cannot be used.",
            |s| s.ignored as u64,
        ),
        (
            "postern_control_key_set_fetches_total",
            "counter",
            "Fetches that brought or confirmed the issuer's keys.",
            |s| s.successes,
        ),
        (
            "postern_control_key_set_fetch_failures_total",
            "counter",
            "Fetches of the issuer's keys that failed.",
            |s| s.failures,
        ),
    ];
    if states.is_empty() {
        return;
    }
    for (name, kind, help, value) in families {
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for state in states {
            let (issuer, jwks_uri) = (label(&state.issuer), label(&state.jwks_uri));
            let _ = writeln!(
                out,
                "{name}{{issuer=\"{issuer}\",jwks_uri=\"{jwks_uri}\"}} {}",
                value(state)
            );
        }
    }
}

/// A label's value as the text format wants it.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

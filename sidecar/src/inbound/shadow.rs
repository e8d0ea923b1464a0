//! What policies that are tried would decide of live traffic, beside what is decided.

use mesh_auth::SpiffeId;
use mesh_auth::policy::{Connection, Decision, Request};
use metrics::counter;

use crate::ledger::{self, ShadowKey};
use crate::worker::Worker;

/// Counts what policies that are tried would decide, and says where it differs from what is decided. Opaque bytes have no
/// request: a connection counts once for each port and policy.
pub(super) fn compare(
    worker: &Worker,
    connection: &Connection<'_>,
    request: Option<&Request<'_>>,
    is: &Decision<'_>,
    would: &Decision<'_>,
) {
    let key = ShadowKey {
        port: connection.destination_port,
        method: request.map_or_else(Box::default, |r| ledger::cut(r.method.as_str())),
        route: request.map_or_else(Box::default, |r| ledger::route(r.path)),
        enforced: is.verdict,
        would_be: would.verdict,
        reason: would.reason,
        policy: would.policy.map(Into::into),
        rule: would.rule,
    };
    let peer = connection.peer.map(|id| id.as_str().into());
    worker.notebook.shadow(key, peer);
    let outcome = match (is.is_allowed(), would.is_allowed()) {
        (true, false) => "would_deny",
        (false, true) => "would_allow",
        _ => "same",
    };
    let policy = would.policy.unwrap_or("-").to_owned();
    counter!("postern_policy_dry_run_total", "policy" => policy, "outcome" => outcome).increment(1);
    if outcome == "same" {
        return;
    }
    tracing::info!(
        outcome,
        policy = would.policy,
        rule = would.rule,
        reason = would.reason.code(),
        decided = is.reason.code(),
        decided_by = is.policy,
        peer = connection.peer.map_or("-", SpiffeId::as_str),
        port = connection.destination_port,
        method = request.map(|r| r.method.as_str()),
        path = request.map(|r| r.path),
        "dry run"
    );
}

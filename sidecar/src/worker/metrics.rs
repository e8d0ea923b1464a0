//! The counters of one worker, resolved once: counting is one atomic add on memory that only this worker writes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use mesh_auth::Reason;
use mesh_auth::policy::Remembered;
use mesh_auth::svid::VerifiedChains;
use metrics::{Counter, Gauge, Label, counter, describe_gauge, gauge};

use super::Worker;

/// Tells how often the chains that peers presented were known, and of how many that is known.
pub fn chains(chains: &VerifiedChains) {
    let tally = chains.tally();
    let results = [("hit", tally.hits()), ("miss", tally.misses())];
    for (result, count) in results {
        counter!("postern_verified_chains_total", "result" => result).absolute(count);
    }
    counter!("postern_verified_chain_evictions_total").absolute(tally.evictions());
    #[allow(clippy::cast_precision_loss)]
    gauge!("postern_verified_chain_entries").set(chains.entries() as f64);
}

/// Tells how many decisions connections remember.
pub fn remembered(decisions: &Remembered) {
    counter!("postern_decision_cache_evictions_total").absolute(decisions.evictions());
    #[allow(clippy::cast_precision_loss)]
    gauge!("postern_decision_cache_entries").set(decisions.entries() as f64);
}

/// Counts handshakes that succeeded and that failed.
pub fn handshakes(direction: Direction) -> [Counter; 2] {
    let direction = direction.as_str();
    ["ok", "failed"].map(
        |result| counter!("postern_tls_handshakes_total", "direction" => direction, "result" => result),
    )
}

/// Counts handshakes that resumed a session.
pub fn resumptions(direction: Direction) -> Counter {
    counter!("postern_tls_resumptions_total", "direction" => direction.as_str())
}

/// Which way traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From peers and plaintext clients to the application.
    Inbound,
    /// From the application to others.
    Outbound,
}

impl Direction {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One worker's counters.
pub struct Counters {
    requests: [[Counter; 5]; 2],
    cut: [Counter; 2],
    connections: [Counter; 2],
    bytes: [[Counter; 2]; 2],
    handshakes: [[Counter; 2]; 2],
    decisions: [Counter; 2],
    resumptions: [Counter; 2],
    accept_errors: Counter,
    handed_over: Counter,
    decided: RefCell<Decided>,
    denials: RefCell<HashMap<(Direction, &'static str), Counter>>,
}

impl std::hash::Hash for Direction {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (*self as u8).hash(state);
    }
}

impl Counters {
    /// Resolves the handles.
    pub fn new() -> Self {
        describe();
        let directions = [Direction::Inbound, Direction::Outbound];
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        Self {
            requests: directions.map(|d| {
                classes.map(|class| {
                    counter!("postern_requests_total", "direction" => d.as_str(), "code_class" => class)
                })
            }),
            cut: directions.map(|d| counter!("postern_responses_cut_total", "direction" => d.as_str())),
            connections: directions.map(|d| counter!("postern_connections_total", "direction" => d.as_str())),
            bytes: directions.map(|d| {
                ["sent", "received"]
                    .map(|flow| counter!("postern_bytes_total", "direction" => d.as_str(), "flow" => flow))
            }),
            decisions: ["hit", "miss"].map(|result| counter!("postern_decision_cache_lookups_total", "result" => result)),
            handshakes: directions.map(handshakes),
            resumptions: directions.map(resumptions),
            accept_errors: counter!("postern_accept_errors_total"),
            handed_over: counter!("postern_connections_handed_over_total"),
            decided: RefCell::default(),
            denials: RefCell::default(),
        }
    }

    /// A request was answered.
    pub fn request(
        &self,
        direction: Direction,
        status: http::StatusCode,
        sent: u64,
        received: u64,
    ) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.requests[direction as usize][class].increment(1);
        self.carried(direction, sent, received);
    }

    /// A request's response did not get to its end.
    pub fn cut(&self, direction: Direction, sent: u64, received: u64) {
        self.cut[direction as usize].increment(1);
        self.carried(direction, sent, received);
    }

    /// Bytes went through.
    pub fn carried(&self, direction: Direction, sent: u64, received: u64) {
        if sent > 0 {
            self.bytes[direction as usize][0].increment(sent);
        }
        if received > 0 {
            self.bytes[direction as usize][1].increment(received);
        }
    }

    /// A connection was accepted.
    pub fn connection(&self, direction: Direction) {
        self.connections[direction as usize].increment(1);
    }

    /// Policy decided about a request, or a connection of opaque bytes.
    pub fn decided(&self, policy: Option<&str>, is_allowed: bool) {
        let mut decided = self.decided.borrow_mut();
        let (_, counters) = decided.by(policy.unwrap_or("-"));
        counters[usize::from(!is_allowed)].increment(1);
    }

    /// A policy's name, shared by all that is told of its decisions.
    pub fn policy_name(&self, policy: &str) -> Arc<str> {
        Arc::clone(&self.decided.borrow_mut().by(policy).0)
    }

    /// A decision was looked for among those that are remembered.
    pub fn decision(&self, remembered: Option<bool>) {
        if let Some(remembered) = remembered {
            self.decisions[usize::from(!remembered)].increment(1);
        }
    }

    /// A TLS handshake ended.
    pub fn handshake(&self, direction: Direction, ok: bool) {
        self.handshakes[direction as usize][usize::from(!ok)].increment(1);
    }

    /// A TLS handshake that is done went by a ticket, without certificates.
    pub fn resumption(&self, direction: Direction) {
        self.resumptions[direction as usize].increment(1);
    }

    /// A listener could not accept.
    pub fn accept_error(&self) {
        self.accept_errors.increment(1);
    }

    /// A connection was passed on to another worker.
    pub fn handed_over(&self) {
        self.handed_over.increment(1);
    }

    /// Something was refused.
    pub fn denial(&self, direction: Direction, reason: Reason) {
        self.denials
            .borrow_mut()
            .entry((direction, reason.code()))
            .or_insert_with(|| {
                counter!(
                    "postern_denials_total",
                    vec![
                        Label::from_static_parts("direction", direction.as_str()),
                        Label::from_static_parts("reason", reason.code()),
                    ]
                )
            })
            .increment(1);
    }
}

/// Counters by policy, the last one first: requests come in runs that one policy decides.
#[derive(Default)]
struct Decided(Vec<(Arc<str>, [Counter; 2])>);

/// Policies whose handles are kept; looking for more would take longer than resolving them.
const MAX_DECIDED: usize = 64;

impl Decided {
    fn by(&mut self, policy: &str) -> &(Arc<str>, [Counter; 2]) {
        match self.0.iter().position(|(name, _)| **name == *policy) {
            Some(found) => self.0.swap(0, found),
            None => {
                let counters = ["allow", "deny"].map(|verdict| {
                    counter!("postern_decisions_total", "policy" => policy.to_owned(), "verdict" => verdict)
                });
                self.0.truncate(MAX_DECIDED - 1);
                self.0.insert(0, (policy.into(), counters));
            }
        }
        &self.0[0]
    }
}

/// The sizes of what one worker holds, looked at now and then.
pub struct Sizes {
    connections: Gauge,
    pools: [Gauge; 3],
    tokens: Gauge,
}

impl Sizes {
    /// Resolves the handles.
    pub fn new() -> Self {
        describe_gauge!(
            "postern_connections_open",
            "Connections and streams that are being served."
        );
        describe_gauge!(
            "postern_pool_connections",
            "Connections held: to other sidecars, and idle or shared ones to applications."
        );
        describe_gauge!(
            "postern_token_cache_entries",
            "Verified tokens that are remembered."
        );
        Self {
            connections: gauge!("postern_connections_open"),
            pools: ["mesh", "app_http1", "app_http2"]
                .map(|pool| gauge!("postern_pool_connections", "pool" => pool)),
            tokens: gauge!("postern_token_cache_entries"),
        }
    }

    /// Tells them.
    #[allow(clippy::cast_precision_loss)]
    pub fn tell(&self, worker: &Worker) {
        self.connections.set(worker.drain.live() as f64);
        let pools = [worker.mesh.len(), worker.apps.len(), worker.clear.len()];
        for (gauge, size) in self.pools.iter().zip(pools) {
            gauge.set(size as f64);
        }
        self.tokens.set(worker.tokens.len() as f64);
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

fn describe() {
    use metrics::describe_counter as describe;
    describe!(
        "postern_requests_total",
        "HTTP requests answered, by direction and status class."
    );
    describe!(
        "postern_responses_cut_total",
        "HTTP responses that did not get to their end, by direction: ended by a decision, or one of the sides went away."
    );
    describe!(
        "postern_connections_total",
        "Connections accepted, by direction."
    );
    describe!(
        "postern_bytes_total",
        "Body and tunnel bytes, by direction and flow."
    );
    describe!(
        "postern_decisions_total",
        "Decisions on requests and on opaque connections, by deciding policy (`-`: none) and verdict."
    );
    describe!(
        "postern_decision_cache_lookups_total",
        "Decisions looked for among those that their connection remembers, by result."
    );
    describe!(
        "postern_tls_handshakes_total",
        "TLS handshakes with peers, by direction and result."
    );
    describe!(
        "postern_tls_resumptions_total",
        "TLS handshakes with peers that resumed a session, by direction."
    );
    describe!(
        "postern_verified_chains_total",
        "Certificate chains that peers presented, by whether they were known to be good."
    );
    describe!(
        "postern_verified_chain_evictions_total",
        "Certificate chains known to be good that made room for others."
    );
    describe_gauge!(
        "postern_verified_chain_entries",
        "Certificate chains that are known to be good."
    );
    describe!(
        "postern_decision_cache_evictions_total",
        "Decisions that made room for others on their connection."
    );
    describe_gauge!(
        "postern_decision_cache_entries",
        "Decisions that connections remember."
    );
    describe!(
        "postern_accept_errors_total",
        "Failures to accept a connection."
    );
    describe!(
        "postern_connections_handed_over_total",
        "Connections that were passed on to a worker with fewer."
    );
    describe!(
        "postern_connections_ended_total",
        "Open connections and streams ended by a review, by direction and reason."
    );
    describe!(
        "postern_destination_lookups_total",
        "Connections and requests to a destination that was not known, by what the control API said."
    );
    describe!(
        "postern_denials_total",
        "Requests and connections refused, by direction and reason."
    );
}

//! The limits of `mesh-bench peers`, in order of what a user feels.

use super::Peer::{Envoy, HaproxyH1, HaproxyH2, HaproxyToken, Postern};
use super::{Peer, Rounds};
use crate::report::Report;
use crate::statistics::ratio;

/// Ours over theirs, at most.
const AT_MOST: [(&str, &str, Peer, f64); 11] = [
    ("cpu_to_envoy", "h1_c32_cpu_us", Envoy, 0.35),
    ("cpu_to_haproxy_h1", "h1_c32_cpu_us", HaproxyH1, 0.75),
    ("p50_to_envoy", "h1_c1_p50_us", Envoy, 0.5),
    ("p50_to_haproxy_h2", "h1_c1_p50_us", HaproxyH2, 1.0),
    ("open_loop_p99_to_envoy", "open_p99_us", Envoy, 0.5),
    ("grpc_cpu_to_envoy", "grpc_cpu_us", Envoy, 0.45),
    ("close_cpu_to_envoy", "close_cpu_us", Envoy, 0.4),
    (
        "handshake_cpu_to_envoy",
        "full_handshake_server_cpu_us",
        Envoy,
        0.65,
    ),
    (
        "known_chain_handshake_cpu_to_envoy",
        "known_chain_handshake_server_cpu_us",
        Envoy,
        0.5,
    ),
    ("bulk_cpu_to_envoy", "bulk_cpu_ms_per_64mb", Envoy, 0.85),
    ("cpu_c1_to_envoy", "h1_c1_cpu_us", Envoy, 0.5),
];

/// Ours over theirs, at least: with everything on one processor, requests per second are requests per core.
const AT_LEAST: [(&str, &str, Peer, f64); 2] = [
    ("rps_per_core_to_envoy", "h1_c32_rps", Envoy, 3.0),
    (
        "rps_per_core_to_haproxy_token",
        "h1_c32_rps",
        HaproxyToken,
        3.0,
    ),
];

/// Told, not judged.
const TOLD: [(&str, &str, Peer); 4] = [
    ("cpu_to_haproxy_h2", "h1_c32_cpu_us", HaproxyH2),
    ("cpu_to_nginx", "h1_c32_cpu_us", Peer::Nginx),
    ("p50_to_haproxy_h1", "h1_c1_p50_us", HaproxyH1),
    ("open_loop_p99_to_haproxy_h2", "open_p99_us", HaproxyH2),
];

pub(super) fn judge(report: &mut Report, rounds: &Rounds) {
    let of = |figure: &str, peer| ratio(rounds.of(Postern, figure), rounds.of(peer, figure));
    for (name, figure, peer, limit) in AT_MOST {
        report.at_most(name, of(figure, peer), limit);
    }
    for (name, figure, peer, limit) in AT_LEAST {
        report.at_least(name, of(figure, peer), limit);
    }
    for (name, figure, peer) in TOLD {
        report.ratio(name, of(figure, peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn a_peer_that_was_not_measured_fails_only_its_own_limits() {
        let mut rounds = Rounds::default();
        rounds.add(Postern, "h1_c32_cpu_us", 30.0);
        rounds.add(HaproxyH1, "h1_c32_cpu_us", 40.0);
        let mut report = Report::new("peers", Machine::default());
        judge(&mut report, &rounds);
        let report = serde_json::to_value(&report).unwrap();
        assert_eq!(report["limits"]["cpu_to_haproxy_h1"]["ok"], true);
        assert_eq!(report["limits"]["cpu_to_envoy"]["ok"], false);
        assert_eq!(
            report["limits"]["cpu_to_envoy"]["value"],
            serde_json::Value::Null
        );
    }
}

//! Every worker's edges together, and when they were seen.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_auth::latency::BUCKETS;
use mesh_proto::mesh::{self, edge};

use crate::telemetry::watch::edges::{Edge, From, Numbers};
use crate::worker::metrics::Direction;

/// The edges.
#[derive(Debug, Default)]
pub(super) struct EdgeBook {
    held: BTreeMap<(bool, From, u16), Held>,
}

#[derive(Debug)]
struct Held {
    /// One per worker that knows it.
    edges: Vec<Arc<Edge>>,
    ended: u64,
    first: i64,
    last: i64,
}

impl EdgeBook {
    /// Takes in new edges, and notes at `now` (Unix seconds) which were seen since the last time.
    pub(super) fn tick(&mut self, new: impl IntoIterator<Item = Arc<Edge>>, now: i64) {
        for edge in new {
            let is_outbound = edge.direction == Direction::Outbound;
            let key = (is_outbound, edge.from.clone(), edge.port);
            let held = self.held.entry(key).or_insert_with(|| Held {
                edges: Vec::new(),
                ended: 0,
                first: now,
                last: now,
            });
            held.edges.push(edge);
        }
        for held in self.held.values_mut() {
            let ended = held
                .edges
                .iter()
                .fold(0_u64, |sum, edge| sum.wrapping_add(edge.ended()));
            if ended != held.ended {
                (held.ended, held.last) = (ended, now);
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<mesh::Edge> {
        self.held.iter().map(told).collect()
    }
}

fn told(((is_outbound, from, port), held): (&(bool, From, u16), &Held)) -> mesh::Edge {
    let mut sum = Numbers {
        requests: 0,
        failed: 0,
        denied: 0,
        connections: 0,
        sent: 0,
        received: 0,
        buckets: vec![0; BUCKETS].into(),
    };
    for numbers in held.edges.iter().map(|edge| edge.numbers()) {
        sum.requests += numbers.requests;
        sum.failed += numbers.failed;
        sum.denied += numbers.denied;
        sum.connections += numbers.connections;
        sum.sent += numbers.sent;
        sum.received += numbers.received;
        for (sum, count) in sum.buckets.iter_mut().zip(&numbers.buckets) {
            *sum += count;
        }
    }
    let filled = || (0_u32..).zip(&sum.buckets).filter(|(_, count)| **count > 0);
    mesh::Edge {
        from: Some(match from {
            From::Peer(id) => edge::From::Peer(id.to_string()),
            From::Address(IpAddr::V4(v4)) => edge::From::Address(v4.octets().to_vec()),
            From::Address(IpAddr::V6(v6)) => edge::From::Address(v6.octets().to_vec()),
            From::OtherPeers => edge::From::Others(true),
            From::OtherAddresses => edge::From::Others(false),
        }),
        port: u32::from(*port),
        requests: sum.requests,
        failed: sum.failed,
        denied: sum.denied,
        connections: sum.connections,
        sent: sum.sent,
        received: sum.received,
        first_seen: held.first,
        last_seen: held.last,
        buckets: filled().map(|(bucket, _)| bucket).collect(),
        counts: filled().map(|(_, count)| *count).collect(),
        outbound: *is_outbound,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::observe::Outcome;
    use crate::telemetry::watch::edges::{Edges, Learned};

    #[test]
    fn workers_edges_are_added_up_and_dated_when_they_move() {
        let workers = [Learned::default(), Learned::default()];
        let edges = workers.each_ref().map(Edges::new);
        let mut book = EdgeBook::default();
        let mut count = |worker: usize, now: i64| {
            let edge =
                edges[worker].find(Direction::Inbound, From::Peer("spiffe://td/a".into()), 80);
            edge.request(&Outcome::default(), false, Duration::from_millis(1));
            book.tick(workers.iter().flat_map(Learned::take), now);
            book.all()
        };
        count(0, 5);
        let all = count(1, 7);
        let [edge] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!(
            (edge.requests, edge.failed),
            (2, 2),
            "no answer is a failure"
        );
        assert_eq!((edge.first_seen, edge.last_seen), (5, 7));
        assert_eq!(edge.counts, [2]);
        book.tick([], 9);
        assert_eq!(book.all()[0].last_seen, 7, "nothing moved");
    }
}

//! Which endpoint of a service gets the next request or connection.
//!
//! Least request by power of two choices over the endpoints that are not resting; an endpoint that could not be reached
//! rests for a while that doubles with each failure in a row, and is tried anyway when all rest. State is per worker and
//! per workload, so that it outlives snapshots.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::directory::Endpoint;

const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What a worker knows of one workload.
#[derive(Debug, Default)]
pub struct EndpointState {
    active: Cell<u32>,
    failures: Cell<u32>,
    rests_until: Cell<Option<Instant>>,
}

impl EndpointState {
    /// Counts one request or connection until the guard is dropped.
    pub fn begin(self: &Rc<Self>) -> Active {
        self.active.set(self.active.get() + 1);
        Active(Rc::clone(self))
    }

    /// The endpoint was reached.
    pub fn reached(&self) {
        if self.failures.get() > 0 {
            self.failures.set(0);
            self.rests_until.set(None);
        }
    }

    /// The endpoint could not be reached at `now`.
    pub fn failed(&self, now: Instant) {
        let failures = self.failures.get();
        let rest = FIRST_REST
            .saturating_mul(1 << failures.min(16))
            .min(LONGEST_REST);
        self.failures.set(failures.saturating_add(1));
        self.rests_until.set(Some(now + rest));
    }

    fn rests(&self) -> bool {
        // The clock is read only for endpoints that failed lately.
        self.rests_until
            .get()
            .is_some_and(|until| Instant::now() < until)
    }
}

/// One request or connection on an endpoint.
#[derive(Debug)]
pub struct Active(Rc<EndpointState>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// Endpoint states and the choice between them.
#[derive(Debug)]
pub struct Balancer {
    states: RefCell<HashMap<Arc<str>, Rc<EndpointState>>>,
    random: Cell<u64>,
}

impl Balancer {
    /// A balancer whose choices follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            states: RefCell::default(),
            random: Cell::new(seed | 1),
        }
    }

    /// The state of a workload.
    pub fn state(&self, uid: &Arc<str>) -> Rc<EndpointState> {
        let mut states = self.states.borrow_mut();
        match states.get(uid) {
            Some(state) => Rc::clone(state),
            None => Rc::clone(states.entry(Arc::clone(uid)).or_default()),
        }
    }

    /// Forgets workloads that `known` does not know any more.
    pub fn retain(&self, known: impl Fn(&str) -> bool) {
        self.states.borrow_mut().retain(|uid, _| known(uid));
    }

    /// Picks an endpoint other than those in `avoid` (already tried for this request).
    pub fn pick<'e>(
        &self,
        endpoints: &'e [Endpoint],
        avoid: &[Arc<str>],
    ) -> Option<(&'e Endpoint, Rc<EndpointState>)> {
        if let [only] = endpoints {
            if avoid.is_empty() || !avoid.contains(&only.workload.uid) {
                return Some((only, self.state(&only.workload.uid)));
            }
            return None;
        }
        let open = |rested: bool| -> Vec<(&'e Endpoint, Rc<EndpointState>)> {
            endpoints
                .iter()
                .filter(|e| !avoid.contains(&e.workload.uid))
                .map(|e| (e, self.state(&e.workload.uid)))
                .filter(|(_, state)| !rested || !state.rests())
                .collect()
        };
        // Two random picks first: the usual case looks at two endpoints, not at all of them.
        if avoid.is_empty() && endpoints.len() > 1 {
            let (a, b) = self.two_of(endpoints.len());
            let (a, b) = (&endpoints[a], &endpoints[b]);
            let (sa, sb) = (self.state(&a.workload.uid), self.state(&b.workload.uid));
            match (sa.rests(), sb.rests()) {
                (false, false) if sb.active.get() < sa.active.get() => return Some((b, sb)),
                (false, _) => return Some((a, sa)),
                (true, false) => return Some((b, sb)),
                (true, true) => {}
            }
        }
        let mut candidates = open(true);
        if candidates.is_empty() {
            candidates = open(false);
        }
        let least = candidates.iter().map(|(_, s)| s.active.get()).min()?;
        candidates.retain(|(_, s)| s.active.get() == least);
        let index = self.next() as usize % candidates.len();
        Some(candidates.swap_remove(index))
    }

    /// A number that spreads things; nothing secret may depend on it.
    pub fn random(&self) -> u64 {
        self.next()
    }

    fn two_of(&self, n: usize) -> (usize, usize) {
        let a = self.next() as usize % n;
        let b = (a + 1 + self.next() as usize % (n - 1)) % n;
        (a, b)
    }

    /// xorshift64*: only spreads load, nothing secret depends on it.
    fn next(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Mark, MeshProtocol, WorkloadEntry};
    use mesh_auth::SpiffeId;

    fn endpoints(n: usize) -> Vec<Endpoint> {
        (0..n)
            .map(|i| Endpoint {
                workload: Arc::new(WorkloadEntry {
                    uid: format!("ns/w{i}").into(),
                    id: SpiffeId::parse("spiffe://td/ns/ns/sa/w").unwrap(),
                    addresses: vec![],
                    mesh_port: 15008,
                    protocol: MeshProtocol::Postern,
                    used: Mark::default(),
                }),
                target_port: 80,
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_less_loaded_of_two_is_picked() {
        let endpoints = endpoints(2);
        let balancer = Balancer::new(7);
        let busy = balancer.state(&endpoints[0].workload.uid);
        let _guards: Vec<_> = (0..3).map(|_| busy.begin()).collect();
        for _ in 0..50 {
            let (picked, _) = balancer.pick(&endpoints, &[]).unwrap();
            assert_eq!(&*picked.workload.uid, "ns/w1");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_endpoint_is_passed_over_and_retried_later() {
        let endpoints = endpoints(3);
        let balancer = Balancer::new(3);
        balancer
            .state(&endpoints[1].workload.uid)
            .failed(Instant::now());
        for _ in 0..100 {
            let (picked, _) = balancer.pick(&endpoints, &[]).unwrap();
            assert_ne!(&*picked.workload.uid, "ns/w1");
        }
        tokio::time::advance(FIRST_REST).await;
        assert!(
            (0..200).any(|_| &*balancer.pick(&endpoints, &[]).unwrap().0.workload.uid == "ns/w1")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_rest_one_is_tried_anyway_and_tried_ones_are_avoided() {
        let endpoints = endpoints(2);
        let balancer = Balancer::new(3);
        for e in &endpoints {
            balancer.state(&e.workload.uid).failed(Instant::now());
        }
        let (first, _) = balancer.pick(&endpoints, &[]).unwrap();
        let (second, _) = balancer
            .pick(&endpoints, &[Arc::clone(&first.workload.uid)])
            .unwrap();
        assert_ne!(first.workload.uid, second.workload.uid);
        let both: Vec<_> = endpoints
            .iter()
            .map(|e| Arc::clone(&e.workload.uid))
            .collect();
        assert!(balancer.pick(&endpoints, &both).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn load_spreads_over_equal_endpoints() {
        let endpoints = endpoints(4);
        let balancer = Balancer::new(11);
        let mut seen = HashMap::new();
        for _ in 0..4000 {
            *seen
                .entry(
                    balancer
                        .pick(&endpoints, &[])
                        .unwrap()
                        .0
                        .workload
                        .uid
                        .clone(),
                )
                .or_insert(0) += 1;
        }
        assert!(seen.values().all(|n| (700..1300).contains(n)), "{seen:?}");
    }
}

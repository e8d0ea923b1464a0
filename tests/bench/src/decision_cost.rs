//! `mesh-bench decision-cost`: what one decision on a request costs with few and with many policies for one workload.
//!
//! The uncached way of a request: its connection's standing is known (once per connection and port), everything that depends
//! on the request is decided anew. Requests differ in peer, method, host, path, headers and token; few and many take turns.
//!
//! Beside them the cache of decisions that is not built in: what the best hit and the cheapest miss would cost, and which
//! share of the requests would have to hit for it to pay.

use std::hash::{BuildHasher as _, Hash};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method};
use mesh_auth::SpiffeId;
use mesh_auth::policy::{Connection, PolicySet, Request, Standing};
use mesh_auth::token::VerifiedToken;
use mesh_proto::mesh;

use crate::args::Common;
use crate::machine::Machine;
use crate::programs::Programs;
use crate::report::Report;
use crate::statistics::median;

const FEW: usize = 10;
const MANY: usize = 1_000;
const RULES: usize = 10;
/// Distinct requests that take turns.
const REQUESTS: usize = 512;
/// Longest decision with many policies, nanoseconds.
const LIMIT_NS: f64 = 1_000.0;
/// Many over few.
const LIMIT_RATIO: f64 = 1.5;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rounds, in each of which both sets take their turn
    #[arg(long, default_value_t = 41, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    pub(crate) rounds: u32,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("decision-cost", Machine::look(&Programs::find()).await);
    if let Err(error) = measure(arguments, &mut report) {
        report.problem(format!("{error:#}"));
    }
    report
}

fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (rounds, passes) = if arguments.common.quick {
        (3, 4)
    } else {
        (arguments.rounds, 40)
    };
    let few = World::new(FEW)?;
    let many = World::new(MANY)?;
    let (small, large) = (few.prepare(), many.prepare());
    let (mut roomy, mut tight) = (Cache::new(16 * REQUESTS), Cache::new(1));
    many.look_up(&mut roomy, 1);
    let (mut of_few, mut of_many, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut of_hits, mut of_misses) = (Vec::new(), Vec::new());
    let mut hits = 0;
    let mut allowed = [0; 2];
    for _ in 0..rounds {
        let (a, allowed_few) = few.round(&small, passes);
        let (b, allowed_many) = many.round(&large, passes);
        allowed = [allowed_few, allowed_many];
        let (hit, count) = many.look_up(&mut roomy, passes);
        of_hits.push(hit);
        hits = count;
        of_misses.push(many.look_up(&mut tight, passes).0);
        ratios.push(b / a);
        of_few.push(a);
        of_many.push(b);
    }
    let (few_ns, many_ns) = (median(&of_few), median(&of_many));
    report.figure("policies", [FEW, MANY]);
    report.figure("rules_per_policy", RULES);
    report.figure("requests", REQUESTS);
    report.figure("allowed_share", allowed.map(share));
    report.figure("ns_with_10_policies", few_ns);
    report.figure("ns_with_1000_policies", many_ns);
    report.figure(
        "ns_standing_of_a_connection_1000_policies",
        many.standing_cost(),
    );
    report.figure("ns_rule_by_rule_1000_policies", many.scan_cost());
    let (hit_ns, miss_ns) = (median(&of_hits), median(&of_misses));
    report.figure("ns_hit_of_a_decision_cache", hit_ns);
    report.figure("ns_miss_of_a_decision_cache", miss_ns);
    report.figure("hit_share_of_a_decision_cache", share(hits));
    report.figure(
        "hit_share_from_which_a_decision_cache_pays",
        [few_ns, many_ns].map(|decision| Some(miss_ns? / (decision? + miss_ns? - hit_ns?))),
    );
    report.at_most("decision_ns", many_ns, LIMIT_NS);
    report.at_most("many_over_few", median(&ratios), LIMIT_RATIO);
    Ok(())
}

fn share(count: usize) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let share = count as f64 / REQUESTS as f64;
    share
}

/// Policies of one workload, and requests to it.
struct World {
    set: PolicySet,
    peers: Vec<SpiffeId>,
    calls: Vec<Call>,
}

struct Call {
    peer: usize,
    method: Method,
    host: String,
    path: String,
    headers: HeaderMap,
    token: Option<VerifiedToken>,
}

impl World {
    fn new(policies: usize) -> anyhow::Result<Self> {
        let documents: Vec<_> = (0..policies).map(policy).collect();
        let defaults = mesh::MeshDefaults {
            trust_domain: "bench.test".into(),
            ..Default::default()
        };
        let set = PolicySet::compile(&documents, &defaults)?;
        let peers = (0..16)
            .map(|i| {
                let of = i * policies / 16;
                SpiffeId::parse(&format!("spiffe://bench.test/ns/ns{of}/sa/caller"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let calls = (0..REQUESTS)
            .map(|i| call(i, policies))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { set, peers, calls })
    }

    fn connection(&self, peer: usize) -> Connection<'_> {
        Connection {
            peer: self.peers.get(peer),
            source_ip: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
            destination_ip: IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)),
            destination_port: 8080,
            sni: None,
        }
    }

    fn request<'a>(&'a self, call: &'a Call) -> Request<'a> {
        Request {
            connection: self.connection(call.peer),
            method: &call.method,
            host: &call.host,
            path: &call.path,
            headers: &call.headers,
            token: call.token.as_ref(),
        }
    }

    fn prepare(&self) -> Vec<(Standing, Request<'_>)> {
        let prepared = self.calls.iter().map(|call| {
            let request = self.request(call);
            (self.set.standing(&request.connection), request)
        });
        prepared.collect()
    }

    /// Nanoseconds per decision, and how many of the requests are let in.
    fn round(&self, prepared: &[(Standing, Request<'_>)], passes: u32) -> (f64, usize) {
        let mut allowed = 0;
        let start = Instant::now();
        for _ in 0..passes {
            allowed = 0;
            for (standing, request) in prepared {
                let decision = self.set.decide_with(standing, black_box(request));
                allowed += usize::from(black_box(decision).is_allowed());
            }
        }
        (per(start, u64::from(passes) * REQUESTS as u64), allowed)
    }

    fn standing_cost(&self) -> f64 {
        let start = Instant::now();
        for peer in 0..self.peers.len() {
            black_box(self.set.standing(&self.connection(peer)));
        }
        per(start, self.peers.len() as u64)
    }

    fn scan_cost(&self) -> f64 {
        let start = Instant::now();
        for call in &self.calls {
            black_box(self.set.decide_request(&self.request(call)));
        }
        per(start, REQUESTS as u64)
    }
}

/// The least that a cache of decisions would have to compare: whatever the policies look at. A headerless key would be wrong.
#[derive(PartialEq, Eq, Hash)]
struct CacheKey<'a> {
    /// Peer, port and epochs of policy, keys and revocations.
    connection: [u64; 5],
    token: [u8; 32],
    method: &'a Method,
    host: &'a str,
    path: &'a str,
    tenant: Option<&'a HeaderValue>,
}

/// A key as a cache holds it.
struct Held {
    connection: [u64; 5],
    token: [u8; 32],
    method: Method,
    host: String,
    path: String,
    tenant: Option<HeaderValue>,
}

impl Held {
    fn key(&self) -> CacheKey<'_> {
        CacheKey {
            connection: self.connection,
            token: self.token,
            method: &self.method,
            host: &self.host,
            path: &self.path,
            tenant: self.tenant.as_ref(),
        }
    }

    /// Holds another key, in the same memory.
    fn replace(&mut self, key: &CacheKey<'_>) {
        (self.connection, self.token) = (key.connection, key.token);
        self.method.clone_from(key.method);
        self.host.clear();
        self.host.push_str(key.host);
        self.path.clear();
        self.path.push_str(key.path);
        self.tenant = key.tenant.cloned();
    }
}

/// A cache with one place for each key, of a fixed size: nothing to search, nothing to keep in order.
struct Cache {
    slots: Vec<Held>,
    seed: foldhash::fast::RandomState,
}

impl Cache {
    fn new(slots: usize) -> Self {
        let empty = || Held {
            connection: [0; 5],
            token: [0; 32],
            method: Method::GET,
            host: String::new(),
            path: String::new(),
            tenant: None,
        };
        Self {
            slots: std::iter::repeat_with(empty).take(slots).collect(),
            seed: foldhash::fast::RandomState::default(),
        }
    }

    /// True if the key is held; holds it from now on.
    fn look_up(&mut self, key: &CacheKey<'_>) -> bool {
        #[allow(clippy::cast_possible_truncation)]
        let at = self.seed.hash_one(key) as usize % self.slots.len();
        let held = &mut self.slots[at];
        let hit = held.key() == *key;
        if !hit {
            held.replace(key);
        }
        hit
    }
}

impl World {
    fn cache_key<'a>(&self, call: &'a Call) -> CacheKey<'a> {
        let mut token = [0; 32];
        if let Some(subject) = call.token.as_ref().and_then(VerifiedToken::principal) {
            let count = subject.len().min(32);
            token[..count].copy_from_slice(&subject.as_bytes()[..count]);
        }
        CacheKey {
            connection: [call.peer as u64, 8080, 1, 1, 1],
            token,
            method: &call.method,
            host: &call.host,
            path: &call.path,
            tenant: call.headers.get("x-tenant"),
        }
    }

    /// Nanoseconds per look, and how many of the requests the cache holds.
    fn look_up(&self, cache: &mut Cache, passes: u32) -> (f64, usize) {
        let mut hits = 0;
        let start = Instant::now();
        for _ in 0..passes {
            hits = 0;
            for call in &self.calls {
                let hit = cache.look_up(&self.cache_key(black_box(call)));
                hits += usize::from(black_box(hit));
            }
        }
        (per(start, u64::from(passes) * REQUESTS as u64), hits)
    }
}

fn per(start: Instant, count: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let ns = start.elapsed().as_nanos() as f64 / count as f64;
    ns
}

/// Ten rules of ten sorts; one policy in ten denies.
fn policy(p: usize) -> mesh::AuthorizationPolicy {
    let deny = p % 10 == 9;
    let action = if deny {
        mesh::PolicyAction::Deny
    } else {
        mesh::PolicyAction::Allow
    };
    mesh::AuthorizationPolicy {
        name: format!("p{p}"),
        namespace: "bench".into(),
        action: action.into(),
        rules: (0..RULES).map(|r| rule(p, r, deny)).collect(),
        ..Default::default()
    }
}

fn rule(p: usize, r: usize, deny: bool) -> mesh::PolicyRule {
    let mut rule = mesh::PolicyRule::default();
    let mut source = mesh::PolicySource::default();
    let mut operation = mesh::PolicyOperation::default();
    let when = |key: &str, value: String| mesh::PolicyCondition {
        key: key.into(),
        values: vec![value],
        ..Default::default()
    };
    match r {
        0 => {
            source.principals = vec![format!("bench.test/ns/ns{p}/sa/caller")];
            operation.methods = vec!["GET".into(), "HEAD".into()];
            operation.paths = vec![format!("/svc{p}/own/*")];
        }
        1 => operation.paths = vec![format!("/svc{p}/health"), format!("/svc{p}/ready")],
        2 => operation.paths = vec![format!("/svc{p}/{{*}}/items/{{**}}")],
        3 => operation.hosts = vec![format!("svc{p}.bench.test")],
        4 => source.request_principals = vec![format!("https://idp.bench.test/user{p}")],
        5 if !deny => rule.when = vec![when("request.auth.claims[groups]", format!("group{p}"))],
        6 if !deny => rule.when = vec![when("request.headers[x-tenant]", format!("tenant{p}"))],
        7 => {
            source.namespaces = vec![format!("ns{p}")];
            operation.paths = vec![format!("*.{p}")];
        }
        8 if !deny => {
            rule.capabilities = vec![mesh::PolicyCapability {
                scope: format!("svc{p}.read"),
                routes: vec![mesh::PolicyRoute {
                    methods: vec!["GET".into()],
                    path: format!("/svc{p}/api/{{**}}"),
                }],
            }];
        }
        9 => {
            source.principals = vec![format!("bench.test/ns/ns{p}/sa/other")];
            operation.not_paths = vec!["/internal/*".into()];
        }
        _ => operation.paths = vec![format!("/svc{p}/denied{r}/*")],
    }
    if source != mesh::PolicySource::default() {
        rule.from.push(source);
    }
    if operation != mesh::PolicyOperation::default() {
        rule.to.push(operation);
    }
    rule
}

/// A request of one of eight sorts about one of the policies; one sort matches nothing.
fn call(i: usize, policies: usize) -> anyhow::Result<Call> {
    let p = i * 7919 % policies;
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("bench/1"));
    headers.insert("accept", HeaderValue::from_static("*/*"));
    let mut call = Call {
        peer: i % 16,
        method: if i.is_multiple_of(5) {
            Method::POST
        } else {
            Method::GET
        },
        host: "app.bench.test".into(),
        path: format!("/svc{p}/nothing/{i}"),
        headers,
        token: None,
    };
    let mut claims = String::new();
    match i % 8 {
        0 => call.path = format!("/svc{p}/own/{i}"),
        1 => call.path = format!("/svc{p}/health"),
        2 => call.path = format!("/svc{p}/{i}/items/a/b"),
        3 => call.host = format!("svc{p}.bench.test"),
        4 => claims = format!(r#""iss":"https://idp.bench.test","sub":"user{p}""#),
        5 => claims = format!(r#""iss":"x","sub":"y","groups":["a","group{p}"]"#),
        6 => {
            claims = format!(r#""iss":"x","sub":"y","scope":"a svc{p}.read""#);
            call.path = format!("/svc{p}/api/v1/{i}");
        }
        _ => {
            let tenant = HeaderValue::try_from(format!("tenant{p}"))?;
            call.headers.insert("x-tenant", tenant);
        }
    }
    if !claims.is_empty() {
        let object = mesh_auth::claims::parse(format!("{{{claims}}}").as_bytes())
            .ok()
            .context("claims of a request")?;
        call.token = Some(VerifiedToken::unverified_for_policy_test("bench", object));
    }
    Ok(call)
}

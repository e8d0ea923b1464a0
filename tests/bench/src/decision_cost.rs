//! `mesh-bench decision-cost`: what one decision on a request costs with few and with many policies for one workload.
//!
//! The uncached way of a request: its connection's standing is known (once per connection and port), everything that depends
//! on the request is decided anew. Requests differ in peer, method, host, path, headers and token; few and many take turns.
//!
//! Beside it what connections remember, with policies that look at no header: a request that comes again on its connection,
//! and one that comes too rarely to be remembered, with what looking for it adds to its decision.

use std::borrow::Borrow;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
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
    let outcome = measure(arguments, &mut report);
    report.concluded(outcome);
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
    let (few_plain, many_plain) = (World::headerless(FEW)?, World::headerless(MANY)?);
    let plain = [&few_plain, &many_plain].map(|world| (world, world.prepare(), world.by_peer()));
    let (mut of_few, mut of_many, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut of_again, mut of_rare) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    let mut allowed = [0; 2];
    for _ in 0..rounds {
        let (a, allowed_few) = few.round(&small, passes);
        let (b, allowed_many) = many.round(&large, passes);
        allowed = [allowed_few, allowed_many];
        for (at, (world, own, shared)) in plain.iter().enumerate() {
            of_again[at].push(world.remembering(own, passes));
            // One after the other, so that both see the machine alike.
            let looked_for = world.remembering(shared, passes);
            of_rare[at].push(looked_for - world.round(shared, passes).0);
        }
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
    report.figure(
        "ns_that_comes_again_10_and_1000_policies",
        of_again.map(|ns| median(&ns)),
    );
    report.figure(
        "ns_added_to_one_that_comes_rarely_10_and_1000_policies",
        of_rare.map(|ns| median(&ns)),
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
        Self::of(&(0..policies).map(policy).collect::<Vec<_>>())
    }

    /// With the rules that look at a header left out.
    fn headerless(policies: usize) -> anyhow::Result<Self> {
        let documents = (0..policies).map(|p| {
            let mut policy = policy(p);
            let looks = |c: &mesh::PolicyCondition| c.key.starts_with("request.headers");
            policy.rules.retain(|rule| !rule.when.iter().any(looks));
            policy
        });
        Self::of(&documents.collect::<Vec<_>>())
    }

    fn of(documents: &[mesh::AuthorizationPolicy]) -> anyhow::Result<Self> {
        let policies = documents.len();
        let defaults = mesh::MeshDefaults {
            trust_domain: "bench.test".into(),
            ..Default::default()
        };
        let set = PolicySet::compile(documents, &defaults)?;
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

    /// As [`Self::prepare`], with one connection for all requests of a peer: more of them than it remembers.
    fn by_peer(&self) -> Vec<(Rc<Standing>, Request<'_>)> {
        let standing = |peer| Rc::new(self.set.standing(&self.connection(peer)));
        let of_peers: Vec<_> = (0..self.peers.len()).map(standing).collect();
        let prepared = self.calls.iter();
        prepared
            .map(|call| (Rc::clone(&of_peers[call.peer]), self.request(call)))
            .collect()
    }

    /// Nanoseconds per decision on connections that remember.
    fn remembering(&self, prepared: &[(impl Borrow<Standing>, Request<'_>)], passes: u32) -> f64 {
        let pass = || {
            for (standing, request) in prepared {
                let standing = standing.borrow();
                black_box(self.set.decide_remembering(standing, black_box(request)));
            }
        };
        // What comes twice is remembered.
        (0..2).for_each(|_| pass());
        let start = Instant::now();
        (0..passes).for_each(|_| pass());
        per(start, u64::from(passes) * REQUESTS as u64)
    }

    /// Nanoseconds per decision, and how many of the requests are let in.
    fn round(
        &self,
        prepared: &[(impl Borrow<Standing>, Request<'_>)],
        passes: u32,
    ) -> (f64, usize) {
        let mut allowed = 0;
        let start = Instant::now();
        for _ in 0..passes {
            allowed = 0;
            for (standing, request) in prepared {
                let decision = self.set.decide_with(standing.borrow(), black_box(request));
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

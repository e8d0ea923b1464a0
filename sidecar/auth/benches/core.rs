//! What the pure decisions cost: `cargo bench -p mesh-auth --bench core`.
//!
//! A peer's certificate chain is verified once per connection, headers are looked at and a decision is made once per
//! request. `mesh-bench decision-cost` measures decisions in a larger world; `--bench token` measures tokens.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue, Method};
use mesh_auth::bundle::{TrustBundle, TrustBundles};
use mesh_auth::headers::{strip_reserved, xfcc};
use mesh_auth::policy::{Connection, PolicySet, Request};
use mesh_auth::svid::{self, Usage, VerifiedChains, VerifiedPeer};
use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::mesh;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};

fn main() {
    divan::main();
}

const DOMAIN: &str = "bench.test";
const CALLER: &str = "spiffe://bench.test/ns/ns7/sa/caller";

/// A leaf, the root that signed it, and the time.
struct Chain {
    bundles: Arc<TrustBundles>,
    chain: Vec<CertificateDer<'static>>,
    now: UnixTime,
}

impl Chain {
    fn new() -> Self {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        root.subject_alt_names = vec![uri("spiffe://bench.test")];
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let mut leaf = CertificateParams::default();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.subject_alt_names = vec![uri(CALLER)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = leaf
            .signed_by(&KeyPair::generate().unwrap(), &root)
            .unwrap();
        let domain = TrustDomain::new(DOMAIN).unwrap();
        let mut bundles = TrustBundles::default();
        bundles
            .insert(TrustBundle::new(domain, vec![root.der().clone()], 1).unwrap())
            .unwrap();
        Self {
            bundles: Arc::new(bundles),
            chain: vec![leaf.der().clone()],
            now: UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)),
        }
    }

    fn verify(&self) -> VerifiedPeer {
        svid::verify(
            black_box(&self.chain),
            Usage::Client,
            &self.bundles,
            self.now,
        )
        .unwrap()
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Rules of the SVID, its path to a root. One signature.
#[divan::bench]
fn svid_verify(bencher: Bencher<'_, '_>) {
    let chain = Chain::new();
    bencher.bench_local(|| chain.verify());
}

/// A chain that was verified before.
#[divan::bench(sample_size = 1000)]
fn svid_verify_remembered(bencher: Bencher<'_, '_>) {
    let chain = Chain::new();
    let chains = VerifiedChains::new(Arc::clone(&chain.bundles), Arc::default());
    bencher.bench_local(|| {
        chains
            .verify(black_box(&chain.chain[0]), &[], Usage::Client, chain.now)
            .unwrap()
    });
}

#[divan::bench(sample_size = 1000)]
fn header_that_names_the_peer(bencher: Bencher<'_, '_>) {
    let peer = Chain::new().verify();
    let own = SpiffeId::parse("spiffe://bench.test/ns/default/sa/orders").unwrap();
    bencher.bench_local(|| xfcc(black_box(&own), black_box(&peer)));
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("user-agent", "curl/8.5.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("accept-language", "en-US,en;q=0.5"),
        ("authorization", "Bearer abcdefghijklmnopqrstuvwxyz"),
        ("x-request-id", "0f8fad5b-d9cb-469f-a165-70867728950e"),
        ("x-forwarded-for", "10.1.2.3"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

/// Eight headers, none of them reserved.
#[divan::bench(sample_size = 1000)]
fn header_hygiene_clean(bencher: Bencher<'_, '_>) {
    let mut headers = headers();
    bencher.bench_local(|| strip_reserved(black_box(&mut headers)));
}

/// The same with two that only a sidecar may send.
#[divan::bench(sample_size = 100)]
fn header_hygiene_forged(bencher: Bencher<'_, '_>) {
    let mut forged = headers();
    forged.insert("x-forwarded-client-cert", HeaderValue::from_static("URI=x"));
    forged.insert("x-postern-claims", HeaderValue::from_static("e30"));
    bencher
        .with_inputs(|| forged.clone())
        .bench_local_refs(strip_reserved);
}

/// Each lets one service account of one namespace call one path.
fn policies(count: usize) -> PolicySet {
    let policy = |p: usize| mesh::AuthorizationPolicy {
        name: format!("p{p}"),
        namespace: "bench".into(),
        action: mesh::PolicyAction::Allow.into(),
        rules: vec![mesh::PolicyRule {
            from: vec![mesh::PolicySource {
                principals: vec![format!("{DOMAIN}/ns/ns{p}/sa/caller")],
                ..Default::default()
            }],
            to: vec![mesh::PolicyOperation {
                methods: vec!["GET".into()],
                paths: vec![format!("/svc{p}/*")],
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let documents: Vec<_> = (0..count).map(policy).collect();
    let defaults = mesh::MeshDefaults {
        trust_domain: DOMAIN.into(),
        ..Default::default()
    };
    PolicySet::compile(&documents, &defaults).unwrap()
}

fn connection(peer: &SpiffeId) -> Connection<'_> {
    Connection {
        peer: Some(peer),
        source_ip: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
        destination_ip: IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)),
        destination_port: 8080,
        sni: None,
    }
}

/// A request whose connection is known; what depends on the request is decided anew.
#[divan::bench(args = [10, 1_000], sample_size = 1000)]
fn policy_decision(bencher: Bencher<'_, '_>, count: usize) {
    decide(bencher, count, |set, standing, request| {
        set.decide_with(standing, request).is_allowed()
    });
}

/// A request that its connection has seen before.
#[divan::bench(args = [10, 1_000], sample_size = 1000)]
fn policy_decision_remembered(bencher: Bencher<'_, '_>, count: usize) {
    decide(bencher, count, |set, standing, request| {
        set.decide_remembering(standing, request).is_allowed()
    });
}

fn decide(
    bencher: Bencher<'_, '_>,
    count: usize,
    by: impl Fn(&PolicySet, &mesh_auth::policy::Standing, &Request<'_>) -> bool,
) {
    let set = policies(count);
    let peer = SpiffeId::parse(CALLER).unwrap();
    let headers = headers();
    let standing = set.standing(&connection(&peer));
    let request = Request {
        connection: connection(&peer),
        method: &Method::GET,
        host: "orders.bench.test",
        path: "/svc7/items/12",
        headers: &headers,
        token: None,
    };
    assert!(by(&set, &standing, &request), "the policy must match");
    bencher.bench_local(|| by(&set, &standing, black_box(&request)));
}

/// The part of a decision that is made once per connection and port.
#[divan::bench(args = [10, 1_000])]
fn policy_standing(bencher: Bencher<'_, '_>, count: usize) {
    let set = policies(count);
    let peer = SpiffeId::parse(CALLER).unwrap();
    bencher.bench_local(|| set.standing(black_box(&connection(&peer))));
}

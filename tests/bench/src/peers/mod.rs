//! `mesh-bench peers`: a pair of our sidecars beside pairs of Envoy, HAProxy and nginx before the same application.
//!
//! Everything that is measured shares one processor, the arms take turns, medians are judged. Ours and Envoy check
//! identity, policy and a token that they have verified before; HAProxy is measured without tokens and, as it remembers no
//! verdict, verifying one with every request; nginx can check neither identity nor token. A peer that is not installed is
//! named as missing, and what compares with it was not measured.

mod arguments;
mod limits;
mod rounds;
mod single;

use anyhow::Context;
use serde_json::json;

pub(crate) use self::arguments::{Arguments, Peer};
use self::rounds::Rounds;
use crate::args::Placement;
use crate::arms::haproxy::{self, Between, Tokens};
use crate::arms::mesh_pair::{self, MeshPair};
use crate::arms::nginx::{self, App};
use crate::arms::{Pair, envoy};
use crate::load::first_byte::Echo;
use crate::machine::Machine;
use crate::placement::Processors;
use crate::probe;
use crate::programs::{self, Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::token::Issuer;
use crate::wrk::Target;

/// Whom tokens are for.
const AUDIENCE: &str = "orders";
/// Whom they are from.
const ISSUER: &str = "https://idp.bench";

/// One arm: what is asked, with which header fields, and what runs it.
struct Arm {
    peer: Peer,
    target: Target,
    grpc: Option<Target>,
    /// Whether a token is checked on the way.
    authorization: bool,
    pair: Option<Pair>,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let (programs, problem) = programs::find_peers(arguments.common.install).await;
    let mut report = Report::new("peers", Machine::look(&programs).await);
    let (needed, peers) = programs.missing_peers();
    report.missing(&needed, true);
    report.missing(&peers, false);
    report.concluded(problem.map_or(Ok(()), Err));
    if needed.is_empty() {
        let outcome = measure(arguments, &programs, &mut report).await;
        report.concluded(outcome);
    }
    report
}

async fn measure(
    arguments: &Arguments,
    programs: &Programs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let nginx = programs.nginx.as_deref().context("nginx is missing")?;
    let wrk = programs.wrk.as_deref().context("wrk is missing")?;
    // Built before anything is pinned: a build wants every processor.
    let ours = Ours::find().await?;
    let processors = Processors::choose(Placement::Same)?;
    report.placed(Some(processors.describe()));
    let mut app = App::start(nginx).await?;
    let echo = Echo::start().await?;
    let issuer = Issuer::new(ISSUER, "k1")?;
    let tokens = Tokens {
        issuer: &issuer,
        audience: AUDIENCE,
    };
    let token = issuer.sign(json!({
        "sub": "alice", "aud": AUDIENCE, "scope": "read write", "tenant": "acme",
        "jti": "0123456789abcdef",
    }))?;
    let mut mesh = mesh_pair::start(&ours, &tokens, &app, &echo.address.to_string()).await?;
    report.figure("features", features(&mesh));
    single::start_up(report, &mesh).await?;

    let mut arms = start(arguments, programs, &tokens, &app, &mut mesh).await?;
    let token = token.as_str();
    for arm in &arms {
        say(&format!("asking {}", arm.peer.as_str()));
        probe::wait_for_answer(&arm.target, &arm.headers(token), &app.body)
            .await
            .with_context(|| format!("{} does not answer", arm.peer.as_str()))?;
    }
    single::memory_at_start(report, &arms)?;
    let mut rounds = Rounds::default();
    for round in 1..=arguments.rounds() {
        for arm in &mut arms {
            app.kid.check()?;
            rounds::measure(&mut rounds, arm, wrk, token, arguments.seconds())
                .await
                .with_context(|| format!("round {round} of {} failed", arm.peer.as_str()))?;
            say(&format!(
                "round {round} of {}: {}",
                arguments.rounds(),
                rounds.last(arm.peer)
            ));
        }
        // Nobody is always first, or always after the same neighbour's heat.
        arms.rotate_left(1);
    }
    open_loop(&mut rounds, &arms, token, arguments).await?;
    single::connections(report, &mut rounds, &arms, arguments.common.quick).await?;
    single::warm_pool(report, &mesh, echo.address).await?;
    single::system_calls(report, programs, &arms, wrk, token).await?;
    single::many_policies(report, &mut mesh, &arms, wrk, token, arguments).await?;
    rounds.figures(report);
    limits::judge(report, &rounds);
    Ok(())
}

impl Arm {
    fn new(peer: Peer, authorization: bool, pair: Pair) -> Self {
        Self {
            peer,
            target: pair.target.clone(),
            grpc: pair.grpc.clone(),
            authorization,
            pair: Some(pair),
        }
    }

    /// Header fields of every request, each line with its end.
    fn headers(&self, token: &str) -> String {
        if self.authorization {
            format!("Authorization: Bearer {token}\r\n")
        } else {
            String::new()
        }
    }

    /// Processes whose time is counted, client side first.
    fn counted(&self) -> Vec<u32> {
        self.pair
            .iter()
            .flat_map(|p| [p.client, p.server])
            .collect()
    }
}

/// Starts the chosen arms whose programs are here.
async fn start(
    arguments: &Arguments,
    programs: &Programs,
    tokens: &Tokens<'_>,
    app: &App,
    mesh: &mut MeshPair,
) -> anyhow::Result<Vec<Arm>> {
    let mut arms = vec![Arm {
        peer: Peer::Direct,
        target: app.target(),
        grpc: Some(Target {
            address: app.grpc.clone(),
            host: "orders".to_owned(),
        }),
        authorization: false,
        pair: None,
    }];
    // The token travels also where nobody can check it yet: its bytes are part of the work.
    arms.push(Arm::new(Peer::Postern, true, mesh.pair.handle()));
    for peer in arguments.peers() {
        let arm = match (peer, &programs.envoy, &programs.haproxy, &programs.nginx) {
            (Peer::Envoy, Some(envoy), _, _) => {
                Arm::new(peer, true, envoy::start(envoy, tokens, app).await?)
            }
            (Peer::HaproxyH1, _, Some(haproxy), _) => {
                let pair = haproxy::start(haproxy, Between::Http1, None, app).await?;
                Arm::new(peer, false, pair)
            }
            (Peer::HaproxyH2, _, Some(haproxy), _) => {
                let pair = haproxy::start(haproxy, Between::Http2, None, app).await?;
                Arm::new(peer, false, pair)
            }
            (Peer::HaproxyToken, _, Some(haproxy), _) => {
                let pair = haproxy::start(haproxy, Between::Http2, Some(tokens), app).await?;
                Arm::new(peer, true, pair)
            }
            (Peer::Nginx, _, _, Some(nginx)) => {
                Arm::new(peer, false, nginx::pair(nginx, app).await?)
            }
            _ => continue,
        };
        arms.push(arm);
    }
    Ok(arms)
}

/// Latencies of all at one rate: 60 % of what Envoy reached, or of what we did where Envoy is missing.
async fn open_loop(
    rounds: &mut Rounds,
    arms: &[Arm],
    token: &str,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let most = rounds
        .most(Peer::Envoy)
        .or_else(|| rounds.most(Peer::Postern))
        .context("no rate was measured")?;
    for _ in 0..arguments.rounds() {
        for arm in arms {
            // An arm that cannot keep up has no latency at this rate; the others still have.
            match rounds::open_loop(arm, token, 0.6 * most, arguments.seconds()).await {
                Ok(found) => rounds.add_open(arm.peer, found),
                Err(error) => say(&format!("{}: {error:#}", arm.peer.as_str())),
            }
        }
    }
    Ok(())
}

fn features(mesh: &MeshPair) -> serde_json::Value {
    json!({
        "mutual_tls": true,
        "identity_match": true,
        "policy": true,
        "metrics": true,
        "token_verified": mesh.tokens,
        "envoy": "mTLS, URI SAN match, RBAC on principal and claim, jwt_authn with cache",
        "haproxy": "mTLS, match of the organization; the token arm verifies ES256 with every request",
        "nginx": "mTLS only",
    })
}

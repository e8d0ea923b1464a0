//! `mesh-bench token-cost`: what a token costs the inbound sidecar, and beside Envoy with jwt_authn and its cache on.
//!
//! CPU of the process of the inbound sidecar per request, from the scheduler's account. Everything shares one processor and
//! the arms take turns; medians of rounds are judged. "Added" is what a request with a token takes more than one without, with
//! requests made by the same script: a slower load generator makes for smaller batches, which cost more for each.

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, anyhow};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use clap::Args;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::args::{Common, Placement, Turns};
use crate::arms::haproxy::Tokens;
use crate::arms::nginx::App;
use crate::arms::{Pair, envoy, mesh_pair};
use crate::beside;
use crate::cpu::Sample;
use crate::placement::Processors;
use crate::probe;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;
use crate::statistics::{median, range, ratio};
use crate::token::Issuer;
use crate::wrk;

const ISSUER: &str = "https://idp.bench";
const AUDIENCE: &str = "orders";
const CONNECTIONS: u32 = 32;
/// More than a worker remembers, so that tokens that take turns are never found.
const TOKENS: usize = 20_000;
/// Tokens that take turns and are all remembered, but more than a connection indexes: each is spelled anew.
const REMEMBERED: usize = 1_000;
const CACHED_US: f64 = 2.0;
const UNCACHED_OVER_RAW_US: f64 = 6.0;
const OVER_ENVOY: f64 = 0.45;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    turns: Turns,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let measure =
        async |programs: &Programs, report: &mut Report| measure(arguments, programs, report).await;
    beside::envoy("token-cost", arguments.common.install, measure).await
}

async fn measure(
    arguments: &Arguments,
    programs: &Programs,
    report: &mut Report,
) -> anyhow::Result<()> {
    let nginx = programs.nginx.as_deref().context("nginx is missing")?;
    let wrk = programs.wrk.as_deref().context("wrk is missing")?;
    let envoy_program = programs.envoy.as_deref().context("envoy is missing")?;
    let ours = Ours::find().await?;
    let processors = Processors::choose(Placement::Same)?;
    report.placed(Some(processors.describe()));
    let issuer = Issuer::new(ISSUER, "k1")?;
    let tokens = Tokens {
        issuer: &issuer,
        audience: AUDIENCE,
    };
    let token = issuer.sign(json!({"sub": "alice", "aud": AUDIENCE}))?;
    let raw = raw_check_us(&issuer, &token)?;

    let app = App::start(nginx).await?;
    let mut mesh = mesh_pair::start(&ours, &tokens, &app, &app.address).await?;
    anyhow::ensure!(mesh.tokens, "the rule for tokens was not taken");
    let other = envoy::start(envoy_program, &tokens, &app).await?;
    let authorization = format!("Authorization: Bearer {token}");
    for pair in [&mesh.pair, &other] {
        let line = format!("{authorization}\r\n");
        probe::wait_for_answer(&pair.target, &line, &app.body).await?;
    }

    let (rounds, seconds) = arguments.turns.length(arguments.common.quick);
    let load = Load { wrk, seconds };
    let (mut postern, mut envoys, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}: beside Envoy"));
        let a = load
            .cpu(&mesh.pair, Sent::Fields(&[&authorization]))
            .await?;
        let b = load.cpu(&other, Sent::Fields(&[&authorization])).await?;
        ratios.push(a / b);
        postern.push(a);
        envoys.push(b);
    }
    drop(other);

    // From here on requests without a token pass as well.
    mesh.api.apply(&mesh_pair::policy(None)).await?;
    probe::wait_for_answer(&mesh.pair.target, "", &app.body).await?;
    let many = tokens_in_turn(&issuer)?;
    let filler = "x".repeat(authorization.len());
    let turning: Vec<String> = many.iter().map(|token| token.replace('.', "-")).collect();
    let scripts = [
        script("X-Filler", &[])?,
        script("X-Filler", &[filler])?,
        script("X-Filler", &turning)?,
        script("Authorization", &[format!("Bearer {token}")])?,
        script("Authorization", &many[..REMEMBERED])?,
        script("Authorization", &many)?,
    ];
    let mut arms = [const { Vec::new() }; 6];
    for round in 1..=rounds {
        say(&format!(
            "round {round} of {rounds}: with and without tokens"
        ));
        for (arm, script) in arms.iter_mut().zip(&scripts) {
            arm.push(load.cpu(&mesh.pair, Sent::Script(script.path())).await?);
        }
    }
    let [none, filler, changing, cached, turns, uncached] = arms.each_ref().map(|arm| median(arm));
    let added = |with: Option<f64>| with.zip(none).map(|(with, none)| with - none);
    report.figure("raw_signature_check_us", raw);
    report.figure("inbound_us.no_token", none);
    report.figure("inbound_us.header_as_long_as_a_token", filler);
    report.figure("inbound_us.header_as_long_that_changes", changing);
    report.figure("inbound_us.cached_token", cached);
    report.figure("inbound_us.cached_tokens_in_turn", turns);
    report.figure("inbound_us.uncached_token", uncached);
    report.figure("inbound_us.no_token_range", range(&arms[0]));
    report.figure("cached_tokens_in_turn_added_us", added(turns));
    report.figure("beside_envoy_us.postern", median(&postern));
    report.figure("beside_envoy_us.envoy", median(&envoys));
    report.ratio(
        "medians_over_envoy",
        ratio(median(&postern), median(&envoys)),
    );
    report.at_most("cached_token_added_us", added(cached), CACHED_US);
    report.at_most(
        "uncached_token_added_us",
        added(uncached),
        raw + UNCACHED_OVER_RAW_US,
    );
    report.at_most("over_envoy", median(&ratios), OVER_ENVOY);
    Ok(())
}

/// How an arm is asked.
#[derive(Clone, Copy)]
enum Sent<'a> {
    Fields(&'a [&'a str]),
    Script(&'a Path),
}

struct Load<'a> {
    wrk: &'a Path,
    seconds: u32,
}

impl Load<'_> {
    /// CPU of the server-side proxy, microseconds per request.
    async fn cpu(&self, pair: &Pair, sent: Sent<'_>) -> anyhow::Result<f64> {
        let before = Sample::take(&[pair.server])?;
        let run = match sent {
            Sent::Fields(fields) => {
                wrk::run_with(self.wrk, &pair.target, CONNECTIONS, self.seconds, fields).await?
            }
            Sent::Script(file) => {
                wrk::run_script(self.wrk, &pair.target, CONNECTIONS, self.seconds, file).await?
            }
        };
        let spent = Sample::take(&[pair.server])?.since(&before);
        #[allow(clippy::cast_precision_loss)]
        let each = spent.nanoseconds as f64 / 1e3 / run.requests as f64;
        Ok(each)
    }
}

/// What presents tokens that differ in their identifier.
fn tokens_in_turn(issuer: &Issuer) -> anyhow::Result<Vec<String>> {
    let token =
        |i: usize| issuer.sign(json!({"sub": "alice", "aud": AUDIENCE, "jti": i.to_string()}));
    (0..TOKENS)
        .map(|i| Ok(format!("Bearer {}", token(i)?)))
        .collect()
}

/// A script for wrk in which the values of a header take turns; without values there is no header.
fn script(header: &str, values: &[String]) -> anyhow::Result<NamedTempFile> {
    let mut file = NamedTempFile::with_suffix(".lua")?;
    writeln!(file, "local values, requests, at = {{}}, {{}}, 0")?;
    for (i, value) in values.iter().enumerate() {
        writeln!(file, "values[{}] = \"{value}\"", i + 1)?;
    }
    write!(
        file,
        "init = function()\n  requests[1] = wrk.format()\n  for i = 1, #values do\n    wrk.headers[\"{header}\"] = values[i]\n    \
         requests[i] = wrk.format()\n  end\nend\n\
         request = function()\n  at = at % #requests + 1\n  return requests[at]\nend\n"
    )?;
    file.flush()?;
    Ok(file)
}

/// One check of the token's signature with a prepared key, in this process: microseconds of CPU, the median of batches.
fn raw_check_us(issuer: &Issuer, token: &str) -> anyhow::Result<f64> {
    const BATCHES: usize = 21;
    const CHECKS: u32 = 200;
    let (signed, signature) = token.rsplit_once('.').context("a token has dots")?;
    let signature = BASE64URL.decode(signature)?;
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, issuer.point())
        .map_err(|_| anyhow!("the key cannot be prepared"))?;
    let us = [std::process::id()];
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let before = Sample::take(&us)?;
        for _ in 0..CHECKS {
            let checked = key.verify_sig(black_box(signed.as_bytes()), black_box(&signature));
            checked.map_err(|_| anyhow!("the signature does not hold"))?;
        }
        let spent = Sample::take(&us)?.since(&before);
        #[allow(clippy::cast_precision_loss)]
        batches.push(spent.nanoseconds as f64 / 1e3 / f64::from(CHECKS));
    }
    median(&batches).context("no batch")
}

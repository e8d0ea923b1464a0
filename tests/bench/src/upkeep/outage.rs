//! `mesh-bench outage`: the control API is killed, and comes back shortly before the first certificate expires.
//!
//! Meanwhile and until after that moment the load must not notice; the sidecars say what is wrong and how long they last, and
//! recover by themselves.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use super::{CONNECTIONS, Couple, judge, unix_now};
use crate::args::Common;
use crate::machine::Machine;
use crate::mesh::ControlApi;
use crate::programs::{Ours, Programs};
use crate::report::Report;
use crate::say;

/// Between two looks at the sidecars.
const LOOK: Duration = Duration::from_millis(200);
/// Load after the moment at which the first certificate would have ended, seconds.
const AFTERWARDS: i64 = 3;
/// Longest wait of a sidecar between two attempts to open its stream, and some.
const STREAM: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Lifetime of a certificate, seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(20..=3_600))]
    pub(crate) lifetime: u32,
    /// How long before the first certificate expires the control API comes back, seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(5..=600))]
    pub(crate) margin: u32,
    /// Requests per second meanwhile
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) rate: u32,
}

pub(crate) async fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("outage", Machine::look(&Programs::find()).await);
    let outcome = measure(arguments, &mut report).await;
    report.concluded(outcome);
    report
}

async fn measure(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let (lifetime, margin, rate) = if arguments.common.quick {
        (25, 5, 100)
    } else {
        (arguments.lifetime, arguments.margin, arguments.rate)
    };
    let margin = i64::from(margin.min(lifetime / 4));
    let ours = Ours::find().await?;
    let flag = format!("{lifetime}s");
    let flags = ["--certificate-lifetime", flag.as_str()];
    let mut api = ControlApi::start(&ours, &flags).await?;
    let address = api.ready.grpc;
    let couple = Couple::start(&ours, &mut api).await?;
    let load = couple.load(rate);
    // What nobody has called yet is asked for at the first call, which is not what an outage interrupts.
    load.goes(CONNECTIONS.into()).await?;
    let caller = couple.caller.certificate().await?;
    let called = couple.called.certificate().await?;
    let first_end = caller.not_after.min(called.not_after);
    say(&format!(
        "killing the control API; certificates last {} s",
        first_end - unix_now()
    ));
    let killed = Instant::now();
    let folder = api.kill();

    let (mut unreachable, mut time_left, mut renewal) = (false, false, false);
    while unix_now() < first_end - margin {
        for member in [&couple.caller, &couple.called] {
            let said = member.status().await?.degraded.unwrap_or_default();
            unreachable |= said.contains("control unreachable since");
            time_left |= said.contains("expires in");
            renewal |= said.contains("certificate renewal fails");
        }
        tokio::time::sleep(LOOK).await;
    }
    let down = killed.elapsed();
    say(&format!(
        "the control API comes back after {:.0} s",
        down.as_secs_f64()
    ));
    let _api = ControlApi::start_at(&ours, folder, address, &flags).await?;
    let back = Instant::now();
    let limit = Duration::from_secs(u64::try_from(margin).unwrap_or_default());
    let mut recovered = Vec::new();
    for (member, old) in [(&couple.caller, &caller), (&couple.called, &called)] {
        member.renewed(&old.serial, limit * 2).await?;
        recovered.push(back.elapsed().as_secs_f64());
    }
    #[allow(clippy::cast_precision_loss)]
    let left = (first_end - unix_now()) as f64;
    while unix_now() < first_end + AFTERWARDS {
        tokio::time::sleep(LOOK).await;
    }
    let mut quiet = false;
    while !quiet {
        if back.elapsed() > STREAM + limit {
            bail!("the sidecars did not find the control API again");
        }
        quiet = couple.caller.status().await?.degraded.is_none()
            && couple.called.status().await?.degraded.is_none();
        tokio::time::sleep(LOOK).await;
    }
    let outcome = load.stop().await;
    report.figure("certificate_lifetime_seconds", lifetime);
    report.figure("control_api_down_seconds", down.as_secs_f64());
    report.figure("requests_per_second", rate);
    report.figure("certificates_renewed_after_seconds", recovered);
    report.figure("all_well_again_after_seconds", back.elapsed().as_secs_f64());
    judge(report, &outcome);
    report.at_least("seconds_left_when_renewed", Some(left), 0.0);
    let told = [unreachable, time_left, renewal];
    let told = told.into_iter().filter(|t| *t).count();
    #[allow(clippy::cast_precision_loss)]
    report.at_least(
        "told_unreachable_time_left_and_failing_renewal",
        Some(told as f64),
        3.0,
    );
    Ok(())
}

//! `meshctl tap`: what ends at a workload's sidecar, as it ends.

use std::process::ExitCode;
use std::time::Duration;

use mesh_auth::{SpiffeId, TrustDomain};
use mesh_proto::admin::{InfoRequest, TapRequest, TapResponse};
use mesh_proto::mesh::{LatencyDirection, ReportVerdict, TapEntry, TapFilter};
use serde_json::{Value, json};

use crate::cli::{Format, TapArgs, TapDirection, TapVerdict};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Tone};
use crate::progress::say;

/// Watches until told to end.
pub(super) async fn run(
    admin: &mut Admin,
    arguments: TapArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    if format == Format::Yaml {
        return Err(
            Failure::usage("tap prints lines, which are no YAML document")
                .next("use `-o json` for programs"),
        );
    }
    let request = TapRequest {
        filter: Some(filter(admin, &arguments).await?),
        workload: arguments.workload,
        per_second: arguments.rate,
    };
    let failed = |status: tonic::Status| Failure::from_status("cannot watch", &status);
    let workload = request.workload.clone();
    let mut responses = admin.tap(request).await.map_err(failed)?.into_inner();
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let over = async {
        match arguments.duration {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    loop {
        let response = tokio::select! {
            () = &mut over => return Ok(ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            response = responses.message() => response.map_err(failed)?,
        };
        let Some(response) = response else {
            return Err(Failure::unreachable("the control API ended the live view")
                .next("run it again, or `meshctl check` to see what is in the way"));
        };
        remark(&workload, &response);
        for entry in &response.entries {
            let text = match format {
                Format::Json => format!("{}\n", item(entry)),
                _ => line(entry, output::colour()),
            };
            output::write(&text)?;
            left -= 1;
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// What is no entry goes to standard error.
fn remark(workload: &str, response: &TapResponse) {
    if !response.tapped {
        say(&format!(
            "{workload}: no sidecar tells (not connected, or an older version); waiting for it"
        ));
    }
    if response.dropped > 0 {
        say(&format!(
            "{} more were not shown: more than --rate, or nobody could take them",
            response.dropped
        ));
    }
}

async fn filter(admin: &mut Admin, arguments: &TapArgs) -> Result<TapFilter, Failure> {
    let verdict = match (arguments.verdict, arguments.denied) {
        (_, true) | (Some(TapVerdict::Deny), _) => ReportVerdict::Deny,
        (Some(TapVerdict::Allow), _) => ReportVerdict::Allow,
        (None, false) => ReportVerdict::Unspecified,
    };
    let direction = arguments.direction.map(|direction| match direction {
        TapDirection::Inbound => LatencyDirection::Inbound,
        TapDirection::Outbound => LatencyDirection::Outbound,
    });
    Ok(TapFilter {
        method: arguments.method.clone().unwrap_or_default(),
        path_prefix: arguments.path.clone().unwrap_or_default(),
        verdict: verdict.into(),
        reason: arguments.reason.clone().unwrap_or_default(),
        peer: match &arguments.peer {
            Some(peer) => spiffe_id(admin, peer).await?,
            None => String::new(),
        },
        direction: direction.map(Into::into),
    })
}

/// A SPIFFE ID, or `namespace/service-account` of this mesh.
async fn spiffe_id(admin: &mut Admin, text: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::usage(format!("`{text}` names no identity"))
            .next("write a SPIFFE ID, or NAMESPACE/SERVICE-ACCOUNT such as shop/web")
    };
    if text.starts_with("spiffe:") {
        return SpiffeId::parse(text)
            .map(|id| id.to_string())
            .map_err(|error| wrong().why(error));
    }
    let (namespace, account) = text.split_once('/').ok_or_else(wrong)?;
    let info = admin
        .info(InfoRequest {})
        .await
        .map_err(|status| Failure::from_status("the trust domain could not be read", &status))?
        .into_inner();
    let domain = TrustDomain::new(&info.trust_domain).map_err(|error| wrong().why(error))?;
    SpiffeId::workload(&domain, namespace, account)
        .map(|id| id.to_string())
        .map_err(|error| wrong().why(error))
}

fn word(entry: &TapEntry) -> (&'static str, Tone) {
    match entry.verdict() {
        ReportVerdict::Allow => ("allow", Tone::Good),
        ReportVerdict::Deny => ("deny", Tone::Bad),
        ReportVerdict::Unspecified => ("-", Tone::Dim),
    }
}

fn direction(entry: &TapEntry) -> &'static str {
    match entry.direction() {
        LatencyDirection::Inbound => "inbound",
        LatencyDirection::Outbound => "outbound",
    }
}

/// The other end, as short as it can be told.
fn other_end(entry: &TapEntry) -> String {
    match SpiffeId::parse(&entry.peer) {
        Ok(id) => id.path().trim_start_matches('/').to_owned(),
        Err(_) if entry.peer_address.is_empty() => "-".to_owned(),
        Err(_) => format!("{} (plaintext)", entry.peer_address),
    }
}

/// `12:00:01.123 < deny  403   1.2ms ns/shop/sa/web  GET orders/admin  (denied_by_policy shop/p 0af3…)`.
fn line(entry: &TapEntry, colour: bool) -> String {
    let (verdict, tone) = word(entry);
    let what = match entry.method.as_str() {
        "" => format!(
            "port {} (opaque, {} / {} bytes)",
            entry.port, entry.sent, entry.received
        ),
        method => format!("{method} {}{}", entry.host, entry.path),
    };
    let status = match entry.status {
        0 => "-".to_owned(),
        status => status.to_string(),
    };
    #[allow(clippy::cast_precision_loss)]
    let took = moment::latency(entry.duration_nanos as f64 / 1_000.0);
    let remarks = [
        &entry.reason,
        &entry.policy,
        &entry.decision_id,
        &entry.error,
    ];
    let mut remarks: Vec<_> = remarks.into_iter().filter(|r| !r.is_empty()).collect();
    remarks.dedup();
    let remarks = match remarks.is_empty() {
        true => String::new(),
        false => {
            let joined = remarks
                .iter()
                .map(|r| r.as_str())
                .collect::<Vec<_>>()
                .join(" ");
            output::paint(&format!("  ({joined})"), Tone::Dim, colour)
        }
    };
    format!(
        "{} {} {} {status:>3} {took:>7} {}  {what}{remarks}\n",
        moment::time_of_day(entry.at_unix_ms),
        match entry.direction() {
            LatencyDirection::Inbound => "<",
            LatencyDirection::Outbound => ">",
        },
        output::paint(&format!("{verdict:<5}"), tone, colour),
        other_end(entry),
    )
}

fn item(entry: &TapEntry) -> Value {
    let phases = entry.phases_nanos.iter();
    #[allow(clippy::cast_precision_loss)]
    let micros = |nanos: u64| nanos as f64 / 1_000.0;
    json!({
        "at_unix_ms": entry.at_unix_ms,
        "direction": direction(entry),
        "method": entry.method,
        "host": entry.host,
        "path": entry.path,
        "status": entry.status,
        "grpc_status": entry.grpc_status,
        "verdict": word(entry).0,
        "reason": entry.reason,
        "policy": entry.policy,
        "decision_id": entry.decision_id,
        "peer": entry.peer,
        "peer_address": entry.peer_address,
        "port": entry.port,
        "duration_us": micros(entry.duration_nanos),
        "phases_us": phases.map(|(name, nanos)| (name.clone(), json!(micros(*nanos)))).collect::<serde_json::Map<_, _>>(),
        "sent": entry.sent,
        "received": entry.received,
        "error": entry.error,
        "trace_id": entry.trace_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_did_what_and_how_it_was_decided() {
        let entry = TapEntry {
            at_unix_ms: 43_201_123,
            method: "GET".into(),
            host: "orders".into(),
            path: "/admin".into(),
            status: 403,
            verdict: ReportVerdict::Deny.into(),
            reason: "denied_by_policy".into(),
            policy: "shop/p".into(),
            decision_id: "00000000000000ff".into(),
            peer: "spiffe://td/ns/shop/sa/web".into(),
            duration_nanos: 42_100,
            ..TapEntry::default()
        };
        assert_eq!(
            line(&entry, false),
            "12:00:01.123 < deny  403  42.1µs ns/shop/sa/web  GET orders/admin  (denied_by_policy shop/p 00000000000000ff)\n"
        );
        let opaque = TapEntry {
            peer_address: "10.0.0.1:5".into(),
            port: 7000,
            direction: LatencyDirection::Outbound.into(),
            error: "connect_failed".into(),
            ..TapEntry::default()
        };
        let text = line(&opaque, false);
        assert!(text.contains("> -"), "{text}");
        assert!(
            text.contains(
                "10.0.0.1:5 (plaintext)  port 7000 (opaque, 0 / 0 bytes)  (connect_failed)"
            ),
            "{text}"
        );
    }
}

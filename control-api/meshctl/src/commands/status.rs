//! `meshctl status`: which sidecar holds which revision, what it rejected, when its certificate expires.

mod key_sets;

use std::process::ExitCode;

use mesh_proto::ResourceType;
use mesh_proto::admin::{Nack, SidecarStatus, StatusRequest, StatusResponse};
use serde_json::{Value, json};

use crate::cli::Format;
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// How a sidecar stands to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Connected, holds everything.
    InSync,
    /// Connected, has not acknowledged everything yet.
    Behind,
    /// Rejected something that it still does not hold.
    Rejecting,
    /// No stream is open; it goes on with what it has.
    Away,
}

impl Standing {
    pub(super) fn of(sidecar: &SidecarStatus, revision: u64) -> Self {
        match sidecar {
            s if !s.connected => Self::Away,
            s if !s.nacks.is_empty() => Self::Rejecting,
            s if s.acked_revision < revision => Self::Behind,
            _ => Self::InSync,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::InSync => "in sync",
            Self::Behind => "behind",
            Self::Rejecting => "rejecting",
            Self::Away => "away",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::InSync => Tone::Good,
            Self::Behind => Tone::Warn,
            Self::Rejecting | Self::Away => Tone::Bad,
        }
    }
}

/// Asks for the status.
pub(super) async fn ask(admin: &mut Admin) -> Result<StatusResponse, Failure> {
    admin
        .status(StatusRequest {})
        .await
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::from_status("no status", &status))
}

/// `Kind name` of a rejected resource.
pub(super) fn resource(nack: &Nack) -> String {
    let kind = ResourceType::from_type_url(&nack.type_url)
        .map_or_else(|| nack.type_url.clone(), |t| t.kind().to_owned());
    format!("{kind} {}", nack.name)
}

pub(super) async fn run(admin: &mut Admin, format: Format) -> Result<ExitCode, Failure> {
    let status = ask(admin).await?;
    let now = moment::unix_now();
    let mut json = value(&status);
    json["key_sets"] = key_sets::value(&status.key_sets, now).into();
    output::print(format, &json, || {
        let colour = output::colour();
        table(&status, now, colour) + &key_sets::table(&status.key_sets, now, colour)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn value(status: &StatusResponse) -> Value {
    let sidecar = |s: &SidecarStatus| {
        let standing = Standing::of(s, status.revision);
        json!({
            "workload": s.workload,
            "spiffe_id": s.spiffe_id,
            "connected": s.connected,
            "since": moment::rfc3339(s.since),
            "acked_revision": s.acked_revision,
            "in_sync": standing == Standing::InSync,
            "state": standing.word(),
            "nacks": s.nacks.iter().map(|n| json!({
                "resource": resource(n), "version": n.version, "reason": n.reason, "at": moment::rfc3339(n.at),
            })).collect::<Vec<_>>(),
            "certificate_not_after": (s.certificate_not_after != 0).then(|| moment::rfc3339(s.certificate_not_after)),
            "version": s.version,
            "peer_address": s.peer_address,
        })
    };
    json!({"revision": status.revision, "sidecars": status.sidecars.iter().map(sidecar).collect::<Vec<_>>()})
}

fn table(status: &StatusResponse, now: i64, colour: bool) -> String {
    if status.sidecars.is_empty() {
        return format!(
            "no sidecar has connected yet (revision {})\nstart one: `meshctl token create NAMESPACE/NAME`, then `sidecar run ...`\n",
            status.revision
        );
    }
    let mut table = Table::new(&[
        "WORKLOAD",
        "STATE",
        "REVISION",
        "CERTIFICATE",
        "STREAM",
        "FROM",
        "VERSION",
    ]);
    for s in &status.sidecars {
        let standing = Standing::of(s, status.revision);
        let certificate = match s.certificate_not_after {
            0 => Cell::toned("unknown", Tone::Dim),
            at if at <= now => {
                Cell::toned(format!("expired {}", moment::relative(at, now)), Tone::Bad)
            }
            at => format!("expires {}", moment::relative(at, now)).into(),
        };
        let stream = match (s.connected, moment::span(now - s.since)) {
            (true, span) => format!("for {span}"),
            (false, span) => format!("gone {span}"),
        };
        table.row([
            s.workload.as_str().into(),
            Cell::toned(standing.word(), standing.tone()),
            format!("{} of {}", s.acked_revision, status.revision).into(),
            certificate,
            stream.into(),
            s.peer_address.as_str().into(),
            s.version.as_str().into(),
        ]);
    }
    let mut text = table.render(colour);
    for s in &status.sidecars {
        for nack in &s.nacks {
            let line = format!(
                "{} rejects {}: {}\n",
                s.workload,
                resource(nack),
                nack.reason
            );
            text.push_str(&output::paint(&line, Tone::Bad, colour));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar() -> SidecarStatus {
        SidecarStatus {
            workload: "demo/orders".into(),
            spiffe_id: "spiffe://td/ns/demo/sa/orders".into(),
            connected: true,
            since: 40,
            acked_revision: 5,
            nacks: Vec::new(),
            certificate_not_after: 7_300,
            version: "sidecar 0.1.0".into(),
            peer_address: "127.0.0.1:40000".into(),
        }
    }

    fn nack() -> Nack {
        Nack {
            type_url: ResourceType::AuthorizationPolicy.type_url().into(),
            name: "demo/bad".into(),
            version: "5".into(),
            reason: "spec.rules[0].when is not supported".into(),
            at: 60,
        }
    }

    #[test]
    fn a_standing_follows_stream_rejections_and_revision() {
        let good = sidecar();
        let rejecting = SidecarStatus {
            nacks: vec![nack()],
            ..sidecar()
        };
        let away = SidecarStatus {
            connected: false,
            ..sidecar()
        };
        for (case, revision, wanted) in [
            (&good, 5, Standing::InSync),
            (&good, 6, Standing::Behind),
            (&rejecting, 5, Standing::Rejecting),
            (&away, 5, Standing::Away),
        ] {
            assert_eq!(Standing::of(case, revision), wanted);
        }
    }

    #[test]
    fn a_rejection_is_shown_with_its_reason() {
        let status = StatusResponse {
            revision: 5,
            sidecars: vec![SidecarStatus {
                nacks: vec![nack()],
                ..sidecar()
            }],
            ..StatusResponse::default()
        };
        let text = table(&status, 100, false);
        assert!(
            text.contains("demo/orders rejects AuthorizationPolicy demo/bad: spec.rules[0].when"),
            "{text}"
        );
        assert!(text.contains("expires in 2h"), "{text}");
        let json = value(&status);
        assert_eq!(json["sidecars"][0]["in_sync"], false);
        assert_eq!(
            json["sidecars"][0]["nacks"][0]["resource"],
            "AuthorizationPolicy demo/bad"
        );
    }

    #[test]
    fn an_unknown_certificate_is_null() {
        let status = StatusResponse {
            revision: 1,
            sidecars: vec![SidecarStatus {
                certificate_not_after: 0,
                ..sidecar()
            }],
            ..StatusResponse::default()
        };
        assert!(value(&status)["sidecars"][0]["certificate_not_after"].is_null());
    }

    #[test]
    fn an_empty_mesh_says_how_to_begin() {
        let text = table(&StatusResponse::default(), 0, false);
        assert!(text.contains("meshctl token create"), "{text}");
    }
}

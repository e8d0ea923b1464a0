//! `meshctl edges`: who talks to whom, with which identity, learned from traffic.

use std::process::ExitCode;

use mesh_auth::SpiffeId;
use mesh_proto::admin::{EdgeView, EdgesRequest, EdgesResponse, WorkloadEdges};
use mesh_proto::mesh::edge;
use serde::Serialize;
use serde_json::json;

use crate::cli::{EdgesArgs, Format};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Cell, Table, Tone};

/// Asks the sidecars.
pub(super) async fn read(
    admin: &mut Admin,
    workload: Option<&str>,
    namespace: Option<&str>,
) -> Result<EdgesResponse, Failure> {
    let request = EdgesRequest {
        workload: workload.unwrap_or_default().to_owned(),
        namespace: namespace.unwrap_or_default().to_owned(),
    };
    let answer = admin.edges(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| Failure::from_status("the sidecars could not be asked", &status))
}

/// The other end of an edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Origin {
    /// For tables.
    pub(super) name: String,
    /// SPIFFE ID; empty in plaintext.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) spiffe_id: String,
    /// Address; empty with mutual TLS.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) address: String,
    /// Workloads that it may be.
    pub(super) workloads: Vec<String>,
    /// Proved by mutual TLS; of a destination, that it proved itself.
    pub(super) mtls: bool,
}

impl Origin {
    pub(super) fn of(view: &EdgeView) -> Self {
        let from = view.counts.as_ref().and_then(|c| c.from.clone());
        let (name, spiffe_id, mtls) = match from {
            Some(edge::From::Peer(id)) => (short(&id), id, true),
            Some(edge::From::Others(true)) => ("further identities".into(), String::new(), true),
            Some(edge::From::Others(false)) => ("further addresses".into(), String::new(), false),
            Some(edge::From::Address(_)) | None => {
                let name = match view.workloads.is_empty() {
                    true => view.address.clone(),
                    false => format!("{} ({})", view.workloads.join(" or "), view.address),
                };
                (name, String::new(), false)
            }
        };
        Self {
            name,
            spiffe_id,
            address: view.address.clone(),
            workloads: view.workloads.clone(),
            mtls,
        }
    }
}

/// Both ends: who called, and the name of whom.
pub(super) fn ends(teller: &WorkloadEdges, view: &EdgeView) -> (Origin, String) {
    let other = Origin::of(view);
    if !view.counts.as_ref().is_some_and(|c| c.outbound) {
        return (other, teller.workload.clone());
    }
    let own = Origin {
        name: short(&teller.spiffe_id),
        spiffe_id: teller.spiffe_id.clone(),
        address: String::new(),
        workloads: vec![teller.workload.clone()],
        mtls: other.mtls,
    };
    (own, other.name)
}

/// `namespace/account` of an identity that has these; otherwise all of it.
fn short(id: &str) -> String {
    let parsed = SpiffeId::parse(id).ok();
    let path = parsed.as_ref().map(|id| id.path().to_owned());
    match path
        .as_deref()
        .map(|p| p.split('/').collect::<Vec<_>>())
        .as_deref()
    {
        Some(["", "ns", namespace, "sa", account]) => format!("{namespace}/{account}"),
        _ => id.to_owned(),
    }
}

#[derive(Debug, Serialize)]
struct Row {
    from: Origin,
    to: String,
    /// Whose sidecar told: `receiver`, or `caller` where the other end has none.
    told_by: &'static str,
    port: u32,
    requests: u64,
    failed: u64,
    denied: u64,
    connections: u64,
    sent_bytes: u64,
    received_bytes: u64,
    first_seen: String,
    last_seen: String,
    #[serde(skip)]
    last: i64,
}

/// Lists the edges.
pub(super) async fn run(
    admin: &mut Admin,
    arguments: EdgesArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let (workload, namespace) = (
        arguments.workload.as_deref(),
        arguments.namespace.as_deref(),
    );
    let answer = read(admin, workload, namespace).await?;
    let mut rows: Vec<_> = answer
        .workloads
        .iter()
        .flat_map(|to| to.edges.iter().filter_map(move |view| row(to, view)))
        .filter(|row| !arguments.plaintext || !row.from.mtls)
        .collect();
    rows.sort_by(|a, b| (&a.from, &a.to, a.port).cmp(&(&b.from, &b.to, b.port)));
    let value = json!({"edges": rows, "silent": answer.silent});
    let now = moment::unix_now();
    output::print(format, &value, || {
        let mut text = table(&rows, now);
        text.push_str(&silence(&answer.silent));
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Who did not answer.
pub(super) fn silence(silent: &[String]) -> String {
    match silent {
        [] => String::new(),
        few if few.len() <= 5 => format!("no sidecar told: {}\n", few.join(", ")),
        many => format!(
            "no sidecar told: {} and {} more\n",
            many[..4].join(", "),
            many.len() - 4
        ),
    }
}

fn row(to: &WorkloadEdges, view: &EdgeView) -> Option<Row> {
    let counts = view.counts.as_ref()?;
    let (from, to) = ends(to, view);
    Some(Row {
        from,
        to,
        told_by: if counts.outbound {
            "caller"
        } else {
            "receiver"
        },
        port: counts.port,
        requests: counts.requests,
        failed: counts.failed,
        denied: counts.denied,
        connections: counts.connections,
        sent_bytes: counts.sent,
        received_bytes: counts.received,
        first_seen: moment::rfc3339(counts.first_seen),
        last_seen: moment::rfc3339(counts.last_seen),
        last: counts.last_seen,
    })
}

/// How the other end proved itself.
pub(super) fn proof(mtls: bool) -> Cell {
    match mtls {
        true => Cell::toned("mTLS", Tone::Good),
        false => Cell::toned("plaintext", Tone::Warn),
    }
}

fn table(rows: &[Row], now: i64) -> String {
    if rows.is_empty() {
        return "nothing was seen yet\n".to_owned();
    }
    let mut table = Table::new(&[
        "FROM", "TO", "PORT", "PROOF", "REQUESTS", "FAILED", "DENIED", "OPAQUE", "LAST",
    ]);
    for row in rows {
        let denied = match row.denied {
            0 => "0".into(),
            n => Cell::toned(n.to_string(), Tone::Bad),
        };
        table.row([
            row.from.name.as_str().into(),
            row.to.as_str().into(),
            row.port.to_string().into(),
            proof(row.from.mtls),
            row.requests.to_string().into(),
            row.failed.to_string().into(),
            denied,
            row.connections.to_string().into(),
            moment::relative(row.last, now).into(),
        ]);
    }
    table.render(output::colour())
}

#[cfg(test)]
mod tests {
    use mesh_proto::mesh::Edge;

    use super::*;

    #[test]
    fn the_other_end_is_told_as_it_was_proved() {
        let view = |from: edge::From, address: &str, workloads: &[&str]| EdgeView {
            counts: Some(Edge {
                from: Some(from),
                ..Edge::default()
            }),
            address: address.into(),
            workloads: workloads.iter().map(|w| (*w).into()).collect(),
        };
        for (view, name, mtls) in [
            (
                view(
                    edge::From::Peer("spiffe://td/ns/shop/sa/web".into()),
                    "",
                    &[],
                ),
                "shop/web",
                true,
            ),
            (
                view(edge::From::Peer("spiffe://td/operator/ann".into()), "", &[]),
                "spiffe://td/operator/ann",
                true,
            ),
            (
                view(edge::From::Address(vec![10, 0, 0, 1]), "10.0.0.1", &[]),
                "10.0.0.1",
                false,
            ),
            (
                view(
                    edge::From::Address(vec![10, 0, 0, 1]),
                    "10.0.0.1",
                    &["shop/a"],
                ),
                "shop/a (10.0.0.1)",
                false,
            ),
            (
                view(edge::From::Others(true), "", &[]),
                "further identities",
                true,
            ),
        ] {
            let origin = Origin::of(&view);
            assert_eq!((origin.name.as_str(), origin.mtls), (name, mtls));
        }
    }
}

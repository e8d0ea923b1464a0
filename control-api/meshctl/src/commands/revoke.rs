//! `meshctl revoke`: what is no longer believed, and how long it took until nobody did.

use std::process::ExitCode;

use mesh_proto::admin::{DeleteRequest, Enforcement, GetRequest, InfoRequest, WaitEnforcedRequest};
use serde_json::{Value, json};

use super::apply;
use crate::cli::{Format, RevokeCommand, RevokeOptions};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::output::{self, Table};

const KIND: &str = "Revocation";
const NAMESPACE: &str = "postern-system";

pub(super) async fn run(
    admin: &mut Admin,
    command: RevokeCommand,
    format: Format,
) -> Result<ExitCode, Failure> {
    match command {
        RevokeCommand::Serial {
            serial,
            trust_domain,
            options,
        } => {
            let domain = match trust_domain {
                Some(domain) => domain,
                None => own_domain(admin).await?,
            };
            let subject = json!({"certificate": {"trustDomain": domain, "serial": serial}});
            revoke(admin, &format!("serial-{serial}"), subject, options, format).await
        }
        RevokeCommand::Id { id, options } => {
            let subject = json!({"spiffeId": id});
            revoke(admin, &format!("id-{id}"), subject, options, format).await
        }
        RevokeCommand::Prefix { prefix, options } => {
            let (domain, path) = split(&prefix)?;
            let subject = json!({"prefix": {"trustDomain": domain, "path": path}});
            revoke(admin, &format!("prefix-{prefix}"), subject, options, format).await
        }
        RevokeCommand::IssuedBefore {
            time,
            prefix,
            options,
        } => {
            let time = match time.as_str() {
                "now" => moment::rfc3339(moment::unix_now()),
                _ => time,
            };
            let (domain, path) = match &prefix {
                Some(prefix) => split(prefix)?,
                None => (own_domain(admin).await?, String::new()),
            };
            let name = format!("before-{time}-{domain}{path}");
            let subject =
                json!({"issuedBefore": {"trustDomain": domain, "path": path, "time": time}});
            revoke(admin, &name, subject, options, format).await
        }
        RevokeCommand::Token {
            issuer,
            jti,
            sub,
            sid,
            issued_before,
            options,
        } => {
            // A token of this very second may be one of those that are meant.
            let before = issued_before.map(|time| match time.as_str() {
                "now" => moment::rfc3339(moment::unix_now().saturating_add(1)),
                _ => time,
            });
            let mut token = json!({"issuer": issuer});
            let said = [
                ("id", jti),
                ("subject", sub),
                ("session", sid),
                ("issuedBefore", before),
            ];
            let mut name = format!("token-{issuer}");
            for (field, value) in said {
                if let Some(value) = value {
                    name.push_str(&format!("-{field}-{value}"));
                    token[field] = value.into();
                }
            }
            revoke(admin, &name, json!({"token": token}), options, format).await
        }
        RevokeCommand::List => list(admin, format).await,
        RevokeCommand::Undo { name } => undo(admin, &name, format).await,
    }
}

/// Trust domain and path of `spiffe://<trust domain>/<path>`; the control API checks them.
fn split(prefix: &str) -> Result<(String, String), Failure> {
    let rest = prefix.strip_prefix("spiffe://").ok_or_else(|| {
        Failure::usage(format!("`{prefix}` does not begin with spiffe://"))
            .next("write e.g. spiffe://example.org/ns/shop")
    })?;
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Ok((domain.to_owned(), path.to_owned()))
}

pub(super) async fn own_domain(admin: &mut Admin) -> Result<String, Failure> {
    let info = admin.info(InfoRequest {}).await;
    info.map(|info| info.into_inner().trust_domain)
        .map_err(|status| Failure::from_status("the trust domain is not known", &status))
}

/// A name that a document may have: the same for the same subject, so that saying it twice is saying it once.
fn document_name(subject: &str) -> String {
    let hash = subject.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| {
        (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let readable: String = subject
        .replace("spiffe://", "")
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => c,
            _ => '-',
        })
        .take(44)
        .collect();
    format!("{}-{hash:016x}", readable.trim_matches('-'))
}

async fn revoke(
    admin: &mut Admin,
    subject_name: &str,
    spec: Value,
    options: RevokeOptions,
    format: Format,
) -> Result<ExitCode, Failure> {
    let name = document_name(subject_name);
    store(admin, &name, json!({}), spec, options, format).await
}

/// Stores a revocation, called `name` unless the options say otherwise, and waits for it if asked to.
pub(super) async fn store(
    admin: &mut Admin,
    name: &str,
    annotations: Value,
    mut spec: Value,
    options: RevokeOptions,
    format: Format,
) -> Result<ExitCode, Failure> {
    let name = options.name.unwrap_or_else(|| name.to_owned());
    if let Some(reason) = options.reason {
        spec["reason"] = reason.into();
    }
    if let Some(seconds) = options.expires {
        let end = moment::unix_now().saturating_add(seconds.into());
        spec["expires"] = moment::rfc3339(end).into();
    }
    let document = document(&name, &annotations, &spec);
    let applied = apply::send(admin, "the revocation", &document, false).await?;
    let outcome = applied
        .resources
        .first()
        .map_or_else(String::new, |r| r.outcome.clone());
    let mut value = json!({"name": name, "outcome": outcome, "revision": applied.revision});
    let mut text = format!("{name} {outcome} (revision {})\n", applied.revision);
    let mut code = ExitCode::SUCCESS;
    if options.wait {
        let waited = wait(admin, applied.revision, options.timeout).await?;
        let summary = Summary::of(&waited);
        value["enforcement"] = summary.json();
        text.push_str(&summary.text());
        if !summary.missing.is_empty() {
            code = ExitCode::from(1);
        }
    }
    output::print(format, &value, || text)?;
    Ok(code)
}

fn document(name: &str, annotations: &Value, spec: &Value) -> String {
    json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": KIND,
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": spec,
    })
    .to_string()
}

/// The document that revokes one token of `issuer`.
pub(crate) fn token_document(issuer: &str, jti: &str) -> String {
    let name = document_name(&format!("token-{issuer}-id-{jti}"));
    let spec = json!({"token": {"issuer": issuer, "id": jti}});
    document(&name, &json!({}), &spec)
}

async fn wait(
    admin: &mut Admin,
    revision: u64,
    timeout_seconds: u32,
) -> Result<Vec<Enforcement>, Failure> {
    let request = WaitEnforcedRequest {
        revision,
        timeout_ms: timeout_seconds.saturating_mul(1000),
    };
    admin
        .wait_enforced(request)
        .await
        .map(|answer| answer.into_inner().sidecars)
        .map_err(|status| {
            Failure::from_status(
                "it is stored, but whether it is enforced is not known",
                &status,
            )
        })
}

/// How long connected sidecars took.
#[derive(Debug, PartialEq)]
struct Summary {
    /// Milliseconds, sorted.
    took: Vec<f64>,
    missing: Vec<String>,
}

impl Summary {
    #[allow(clippy::cast_precision_loss)]
    fn of(sidecars: &[Enforcement]) -> Self {
        let (done, missing): (Vec<_>, Vec<_>) = sidecars.iter().partition(|s| s.enforced);
        let mut took: Vec<f64> = done.iter().map(|s| s.micros as f64 / 1000.0).collect();
        took.sort_by(f64::total_cmp);
        Self {
            took,
            missing: missing.into_iter().map(|s| s.workload.clone()).collect(),
        }
    }

    /// The smallest time within which that part of the sidecars was done.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    fn quantile(&self, part: f64) -> Option<f64> {
        let rank = (self.took.len() as f64 * part).ceil() as usize;
        self.took.get(rank.max(1) - 1).copied()
    }

    fn json(&self) -> Value {
        json!({
            "sidecars": self.took.len() + self.missing.len(),
            "enforced": self.took.len(),
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "max_ms": self.took.last(),
            "missing": self.missing,
        })
    }

    fn text(&self) -> String {
        let ms =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let mut text = format!(
            "enforced by {} of {} connected sidecars: p50 {}, p99 {}, max {}\n",
            self.took.len(),
            self.took.len() + self.missing.len(),
            ms(self.quantile(0.5)),
            ms(self.quantile(0.99)),
            ms(self.took.last().copied()),
        );
        for workload in &self.missing {
            text.push_str(&format!("not yet: {workload}\n"));
        }
        text
    }
}

async fn list(admin: &mut Admin, format: Format) -> Result<ExitCode, Failure> {
    let request = GetRequest {
        kind: KIND.to_owned(),
        ..GetRequest::default()
    };
    let answer = admin
        .get(request)
        .await
        .map_err(|status| Failure::from_status("no revocations could be listed", &status))?
        .into_inner();
    let entries = answer.resources;
    let value = json!({"revocations": entries.iter().map(|r| json!({
        "name": r.name, "summary": r.summary, "author": r.author, "revoked_at": moment::rfc3339(r.changed_at),
        "revision": r.revision,
        "document": serde_json::from_str::<Value>(&r.document_json).unwrap_or_default(),
    })).collect::<Vec<_>>()});
    let now = moment::unix_now();
    output::print(format, &value, || {
        if entries.is_empty() {
            return "nothing is revoked\n".to_owned();
        }
        let mut table = Table::new(&["NAME", "WHAT", "BY", "WHEN"]);
        for r in &entries {
            table.row([
                r.name.as_str().into(),
                r.summary.as_str().into(),
                r.author.as_str().into(),
                moment::relative(r.changed_at, now).into(),
            ]);
        }
        table.render(output::colour())
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn undo(
    admin: &mut Admin,
    name: &str,
    format: Format,
) -> Result<ExitCode, Failure> {
    let request = DeleteRequest {
        kind: KIND.to_owned(),
        namespace: NAMESPACE.to_owned(),
        name: name.to_owned(),
        if_revision: 0,
    };
    let revision = admin
        .delete(request)
        .await
        .map_err(|s| Failure::from_status(&format!("revocation {name} was not undone"), &s))?
        .into_inner()
        .revision;
    let value = json!({"name": name, "outcome": "undone", "revision": revision});
    output::print(format, &value, || {
        format!("{name} undone (revision {revision})\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_name_and_two_subjects_have_two() {
        let id = |text: &str| document_name(&format!("id-{text}"));
        let first = id("spiffe://td/ns/a/sa/b");
        assert_eq!(first, id("spiffe://td/ns/a/sa/b"));
        assert_ne!(first, id("spiffe://td/ns/a.sa/b"));
        assert!(first.starts_with("id-td-ns-a-sa-b-"), "{first}");
        let long = id(&format!("spiffe://td/{}", "x".repeat(2_000)));
        assert!(long.len() < 63, "{long}");
    }

    #[test]
    fn quantiles_are_times_that_were_measured_and_who_is_missing_is_named() {
        let enforcement = |n: u64, enforced| Enforcement {
            workload: format!("ns/w{n}"),
            enforced,
            micros: n * 1000,
        };
        let mut all: Vec<_> = (1..=100).map(|n| enforcement(n, true)).collect();
        all.push(enforcement(101, false));
        let summary = Summary::of(&all);
        assert_eq!(summary.quantile(0.5), Some(50.0));
        assert_eq!(summary.quantile(0.99), Some(99.0));
        assert_eq!(summary.missing, ["ns/w101"]);
        assert_eq!(Summary::of(&[]).quantile(0.99), None);
    }

    #[test]
    fn prefixes_are_spiffe_uris() {
        assert_eq!(
            split("spiffe://td/ns/a").expect("splits"),
            ("td".into(), "/ns/a".into())
        );
        assert_eq!(
            split("spiffe://td").expect("splits"),
            ("td".into(), String::new())
        );
        assert!(split("/ns/a").is_err());
    }
}

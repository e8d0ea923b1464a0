//! What each thing learnt about the mesh means. Pure: time is passed.

use std::collections::BTreeMap;

use mesh_proto::admin::{InfoResponse, SidecarStatus, StatusResponse, StoredResource};

use crate::commands::status::{Standing, resource};
use crate::connect::Target;
use crate::failure::Failure;
use crate::moment::{relative, span};

/// A certificate authority that expires within this must be replaced now.
const AUTHORITY_NEAR: i64 = 7 * 86_400;
/// A certificate that expires within this should have been renewed.
const CERTIFICATE_NEAR: i64 = 3_600;
/// Clocks this far apart are worth a word; certificates are backdated by five minutes.
const SKEW_WARNING_MS: i128 = 5_000;
/// Clocks this far apart break things.
const SKEW_PROBLEM_MS: i128 = 60_000;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    Warning,
    Problem,
}

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing looked at.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) name: String,
    pub(super) level: Level,
    /// What was found, and its cause when it is not good.
    pub(super) found: String,
    /// One command to run.
    pub(super) next: Option<String>,
}

impl Finding {
    pub(super) fn good(name: &str, found: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            level: Level::Good,
            found: found.into(),
            next: None,
        }
    }

    pub(super) fn bad(
        level: Level,
        name: &str,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            level,
            next: Some(next.into()),
            ..Self::good(name, found)
        }
    }

    /// A step that did not work at all.
    pub(super) fn failed(name: &str, failure: &Failure) -> Self {
        Self {
            level: Level::Problem,
            next: failure.next_step().map(str::to_owned),
            ..Self::good(name, failure.summary())
        }
    }

    /// A finding about a sidecar's own word.
    pub(super) fn sidecar(name: &str, result: Result<String, (String, String)>) -> Self {
        match result {
            Ok(found) => Self::good(name, found),
            Err((found, next)) => Self::bad(Level::Problem, name, found, next),
        }
    }
}

pub(super) fn target(target: &Target) -> Finding {
    Finding::good("where", format!("asking the control API at {target}"))
}

pub(super) fn reached(info: &InfoResponse) -> Finding {
    Finding::good(
        "control API",
        format!(
            "answers as an operator's (version {}, trust domain {}, revision {})",
            info.version, info.trust_domain, info.revision
        ),
    )
}

pub(super) fn operator(id: &str, not_before: i64, not_after: i64, now: i64) -> Finding {
    let name = "your credentials";
    let renew = "control-api init --data-dir D --trust-domain TD --operator-out DIR";
    if !id.contains("/operator/") {
        let found = format!(
            "{id} is a workload's identity, not an operator's: the admin service will refuse it"
        );
        return Finding::bad(Level::Problem, name, found, renew);
    }
    match now {
        _ if now < not_before => Finding::bad(
            Level::Problem,
            name,
            format!(
                "the certificate of {id} is valid only from {}: this machine's clock is behind",
                relative(not_before, now)
            ),
            "date -u",
        ),
        _ if now >= not_after => Finding::bad(
            Level::Problem,
            name,
            format!(
                "the certificate of {id} expired {}",
                relative(not_after, now)
            ),
            renew,
        ),
        _ if not_after - now < AUTHORITY_NEAR => Finding::bad(
            Level::Warning,
            name,
            format!(
                "the certificate of {id} expires {}",
                relative(not_after, now)
            ),
            renew,
        ),
        _ => Finding::good(name, format!("{id}, expires {}", relative(not_after, now))),
    }
}

/// `before` and `after` are this machine's clock around the call, Unix milliseconds.
pub(super) fn clock(info: &InfoResponse, before: i128, after: i128) -> Finding {
    let theirs = i128::from(info.now_unix_ms);
    let skew = match theirs {
        t if t < before => t - before,
        t if t > after => t - after,
        _ => 0,
    };
    let seconds = span(i64::try_from(skew / 1000).unwrap_or(i64::MAX));
    let side = if skew < 0 { "behind" } else { "ahead of" };
    let found = format!("the control API's clock is {seconds} {side} this machine's");
    let next = "timedatectl status";
    match skew.abs() {
        ms if ms >= SKEW_PROBLEM_MS => Finding::bad(
            Level::Problem,
            "clocks",
            format!("{found}: fresh certificates will look expired or not yet valid"),
            next,
        ),
        ms if ms >= SKEW_WARNING_MS => Finding::bad(Level::Warning, "clocks", found, next),
        _ => Finding::good("clocks", "agree"),
    }
}

pub(super) fn authority(info: &InfoResponse, now_ms: i128) -> Finding {
    let name = "certificate authority";
    let now = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let next = "control-api run --data-dir D --trust-domain TD --root-cert FILE --root-key FILE   # a new root, rolled out first as part of the trust bundle";
    match info.ca_not_after {
        at if at <= now => Finding::bad(
            Level::Problem,
            name,
            format!(
                "expired {}: no certificate it signed is accepted any more",
                relative(at, now)
            ),
            next,
        ),
        at if at - now < AUTHORITY_NEAR => Finding::bad(
            Level::Problem,
            name,
            format!(
                "expires {}: everything it signed stops working then",
                relative(at, now)
            ),
            next,
        ),
        at => Finding::good(name, format!("expires {}", relative(at, now))),
    }
}

/// Workloads that should have a sidecar and have none connected.
pub(super) fn registered(workloads: &[StoredResource], status: &StatusResponse) -> Finding {
    let name = "workloads";
    let sidecars: BTreeMap<&str, &SidecarStatus> = status
        .sidecars
        .iter()
        .map(|s| (s.workload.as_str(), s))
        .collect();
    let mut never = Vec::new();
    let mut away = Vec::new();
    let mut expected = 0;
    for workload in workloads {
        let document: serde_json::Value =
            serde_json::from_str(&workload.document_json).unwrap_or_default();
        if document["spec"]["meshProtocol"]
            .as_str()
            .is_some_and(|p| p.eq_ignore_ascii_case("none"))
        {
            continue;
        }
        expected += 1;
        let uid = format!("{}/{}", workload.namespace, workload.name);
        match sidecars.get(uid.as_str()) {
            None => never.push(uid),
            Some(s) if !s.connected => away.push(uid),
            Some(_) => {}
        }
    }
    if let Some(first) = never.first() {
        return Finding::bad(
            Level::Problem,
            name,
            format!(
                "registered, but no sidecar ever came for {}: nothing can reach them",
                list(&never)
            ),
            format!("meshctl token create {first}   # then start its sidecar with that token"),
        );
    }
    if !away.is_empty() {
        return Finding::bad(
            Level::Problem,
            name,
            format!(
                "no stream from the sidecar of {}: it is down, or cannot reach the control API",
                list(&away)
            ),
            "meshctl check --sidecar 127.0.0.1:15000   # on the sidecar's machine",
        );
    }
    match expected {
        0 => Finding::bad(
            Level::Warning,
            name,
            "none is registered yet",
            "meshctl apply -f FILE   # with Workload and Service documents",
        ),
        n => Finding::good(name, format!("all {n} registered have a connected sidecar")),
    }
}

/// One problem per rejected resource.
pub(super) fn rejections(status: &StatusResponse) -> Vec<Finding> {
    let rejected = status
        .sidecars
        .iter()
        .flat_map(|s| s.nacks.iter().map(move |n| (s, n)));
    rejected
        .map(|(s, nack)| {
            let resource = resource(nack);
            let (kind, uid) = resource.split_once(' ').unwrap_or((&resource, ""));
            let next = match uid.split_once('/') {
                Some((namespace, name)) => format!("meshctl get {kind} {name} -n {namespace} -o yaml   # correct it, then `meshctl apply -f FILE`"),
                None => "meshctl status -o json".to_owned(),
            };
            Finding::bad(
                Level::Problem,
                "rejected",
                format!("the sidecar of {} rejects {resource}: {}", s.workload, nack.reason),
                next,
            )
        })
        .collect()
}

pub(super) fn in_sync(status: &StatusResponse) -> Finding {
    let name = "revisions";
    let connected = || status.sidecars.iter().filter(|s| s.connected);
    let behind: Vec<String> = connected()
        .filter(|s| Standing::of(s, status.revision) == Standing::Behind)
        .map(|s| format!("{} (at {})", s.workload, s.acked_revision))
        .collect();
    if behind.is_empty() {
        return Finding::good(
            name,
            format!(
                "{} connected sidecars, none behind revision {}",
                connected().count(),
                status.revision
            ),
        );
    }
    Finding::bad(
        Level::Problem,
        name,
        format!(
            "behind revision {}: {}; overloaded, or its stream is stuck",
            status.revision,
            list(&behind)
        ),
        "meshctl status",
    )
}

pub(super) fn certificates(status: &StatusResponse, now: i64) -> Finding {
    let name = "certificates";
    let known = || {
        status
            .sidecars
            .iter()
            .filter(|s| s.connected && s.certificate_not_after != 0)
    };
    let said = |within: i64| -> Vec<String> {
        known()
            .filter(|s| s.certificate_not_after - now <= within)
            .map(|s| {
                format!(
                    "{} ({})",
                    s.workload,
                    relative(s.certificate_not_after, now)
                )
            })
            .collect()
    };
    let next = "meshctl check --sidecar 127.0.0.1:15000   # on the sidecar's machine: says why renewal fails";
    let expired = said(0);
    if !expired.is_empty() {
        return Finding::bad(
            Level::Problem,
            name,
            format!("expired: {}", list(&expired)),
            next,
        );
    }
    let near = said(CERTIFICATE_NEAR);
    if !near.is_empty() {
        return Finding::bad(
            Level::Warning,
            name,
            format!(
                "close to expiry: {}; fine only where lifetimes are this short",
                list(&near)
            ),
            next,
        );
    }
    match known().map(|s| s.certificate_not_after).min() {
        Some(first) => Finding::good(name, format!("the first expires {}", relative(first, now))),
        None => Finding::good(name, "none issued yet"),
    }
}

/// The first few of a list.
fn list(items: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = items[..items.len().min(SHOWN)].join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::ResourceType;
    use mesh_proto::admin::Nack;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn info() -> InfoResponse {
        InfoResponse {
            trust_domain: "td".into(),
            version: "1".into(),
            revision: 5,
            trust_bundle_pem: String::new(),
            ca_not_after: NOW + 400 * 86_400,
            now_unix_ms: NOW * 1000,
        }
    }

    fn sidecar(workload: &str) -> SidecarStatus {
        SidecarStatus {
            workload: workload.into(),
            connected: true,
            acked_revision: 5,
            certificate_not_after: NOW + 80_000,
            ..SidecarStatus::default()
        }
    }

    fn workload(name: &str, protocol: &str) -> StoredResource {
        StoredResource {
            namespace: "demo".into(),
            name: name.into(),
            document_json: format!(r#"{{"spec":{{"meshProtocol":"{protocol}"}}}}"#),
            ..StoredResource::default()
        }
    }

    fn status(sidecars: Vec<SidecarStatus>) -> StatusResponse {
        StatusResponse {
            revision: 5,
            sidecars,
            ..StatusResponse::default()
        }
    }

    #[test]
    fn skew_is_judged_by_what_it_breaks() {
        let now = i128::from(NOW) * 1000;
        for (theirs, level) in [
            (now, Level::Good),
            (now + 4_000, Level::Good),
            (now - 10_000, Level::Warning),
            (now + 120_000, Level::Problem),
            (now - 120_000, Level::Problem),
        ] {
            let info = InfoResponse {
                now_unix_ms: i64::try_from(theirs).expect("small"),
                ..info()
            };
            assert_eq!(clock(&info, now, now + 3).level, level, "{theirs}");
        }
    }

    #[test]
    fn operator_certificates_are_judged_by_name_and_time() {
        let id = "spiffe://td/operator/admin";
        for (id, from, to, level) in [
            (id, 0, NOW + 90 * 86_400, Level::Good),
            (id, 0, NOW + 86_400, Level::Warning),
            (id, 0, NOW, Level::Problem),
            (id, NOW + 60, NOW * 2, Level::Problem),
            ("spiffe://td/ns/demo/sa/web", 0, NOW * 2, Level::Problem),
        ] {
            let finding = operator(id, from, to, NOW);
            assert_eq!(finding.level, level, "{finding:?}");
            assert_eq!(finding.next.is_some(), level != Level::Good, "{finding:?}");
        }
    }

    #[test]
    fn an_authority_near_its_end_is_a_problem() {
        for (at, level) in [
            (NOW + 400 * 86_400, Level::Good),
            (NOW + 86_400, Level::Problem),
            (NOW - 1, Level::Problem),
        ] {
            let info = InfoResponse {
                ca_not_after: at,
                ..info()
            };
            assert_eq!(authority(&info, i128::from(NOW) * 1000).level, level);
        }
    }

    #[test]
    fn workloads_without_a_sidecar_are_named_with_the_command_to_run() {
        let both = [workload("web", "Postern"), workload("db", "None")];
        let good = registered(&both, &status(vec![sidecar("demo/web")]));
        assert_eq!(good.level, Level::Good, "{good:?}");
        let never = registered(&both, &status(vec![]));
        assert_eq!(never.level, Level::Problem);
        assert!(
            never
                .next
                .expect("a command")
                .contains("meshctl token create demo/web")
        );
        let away = registered(
            &both,
            &status(vec![SidecarStatus {
                connected: false,
                ..sidecar("demo/web")
            }]),
        );
        assert_eq!(away.level, Level::Problem);
        assert_eq!(registered(&[], &status(vec![])).level, Level::Warning);
    }

    #[test]
    fn a_rejection_names_resource_reason_and_command() {
        let nack = Nack {
            type_url: ResourceType::AuthorizationPolicy.type_url().into(),
            name: "demo/bad".into(),
            reason: "rules[0].from: empty".into(),
            ..Nack::default()
        };
        let found = rejections(&status(vec![SidecarStatus {
            nacks: vec![nack],
            ..sidecar("demo/web")
        }]));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].found.contains("demo/web") && found[0].found.contains("rules[0].from: empty")
        );
        assert!(
            found[0]
                .next
                .as_ref()
                .expect("a command")
                .starts_with("meshctl get AuthorizationPolicy bad -n demo -o yaml")
        );
    }

    #[test]
    fn revisions_and_certificates_are_judged() {
        assert_eq!(
            in_sync(&status(vec![sidecar("demo/web")])).level,
            Level::Good
        );
        assert_eq!(
            in_sync(&status(vec![SidecarStatus {
                acked_revision: 4,
                ..sidecar("demo/web")
            }]))
            .level,
            Level::Problem
        );
        for (at, level) in [
            (NOW + 80_000, Level::Good),
            (NOW + 60, Level::Warning),
            (NOW - 1, Level::Problem),
            (0, Level::Good),
        ] {
            let s = status(vec![SidecarStatus {
                certificate_not_after: at,
                ..sidecar("demo/web")
            }]);
            assert_eq!(certificates(&s, NOW).level, level, "{at}");
        }
    }
}

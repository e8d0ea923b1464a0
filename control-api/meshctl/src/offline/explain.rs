//! How a case is decided, check by check, and what would have to be different.

use mesh_auth::Reason;
use mesh_auth::policy::{MtlsMode, PolicyError, PolicySet, Verdict};
use mesh_auth::token::TokenPolicyError;
use mesh_proto::mesh::{AuthorizationPolicy, PolicyAction};
use serde::Serialize;

use super::mesh::{action, title};
use super::parts::{self, Part};
use super::token::{self, Tokens};
use super::{Case, Mesh, Subject};

/// A decision with its reasons.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Explanation {
    /// `allow` or `deny`.
    pub(crate) verdict: &'static str,
    /// Stable code.
    pub(crate) reason: &'static str,
    /// The deciding policy, `namespace/name`.
    pub(crate) policy: Option<String>,
    /// Position of the deciding rule, from 0.
    pub(crate) rule: Option<u32>,
    /// What was looked at, in order.
    pub(crate) checks: Vec<Check>,
    /// What would have to be different for the case to be let in; empty when it is.
    pub(crate) to_be_allowed: Vec<String>,
    /// What the dry-run policies would make of it, where that is different.
    pub(crate) dry_run: Option<String>,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    /// A policy does not compile.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A rule on tokens does not compile.
    #[error(transparent)]
    Tokens(#[from] TokenPolicyError),
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at: `mtls`, `DENY demo/x rules[0]`, `default`.
    pub(crate) check: String,
    /// `pass`, `deny`, `allow`, `match`, `no match`.
    pub(crate) verdict: &'static str,
    /// Why.
    pub(crate) because: String,
}

fn check(check: impl Into<String>, verdict: &'static str, because: impl Into<String>) -> Check {
    Check {
        check: check.into(),
        verdict,
        because: because.into(),
    }
}

/// One rule of a policy that selects the workload, looked at on its own.
struct Judged<'a> {
    policy: &'a AuthorizationPolicy,
    rule: usize,
    matches: bool,
    /// The parts that fail in the way of matching that fails least.
    missing: Vec<Part>,
}

/// Explains how the sidecar of `subject` decides `case`.
///
/// # Errors
/// A policy or a rule on tokens does not compile.
pub(crate) fn explain(
    mesh: &Mesh,
    subject: &Subject,
    case: &Case,
    tokens: Tokens,
) -> Result<Explanation, ExplainError> {
    let mut case = case.clone();
    let selecting = mesh.selecting(subject);
    let set = PolicySet::compile(&selecting, mesh.defaults())?;
    let mut checks = Vec::new();
    let refused = check_mtls(mesh, subject, &case, &mut checks);
    let refused = match refused {
        Some(refused) => Some(refused),
        None => check_token(token::judge(mesh, subject, &mut case, tokens)?, &mut checks),
    };
    if let Some(refused) = refused {
        return Ok(Explanation { checks, ..refused });
    }
    let case = &case;
    let mut judged = Vec::new();
    for policy in &selecting {
        for rule in 0..policy.rules.len() {
            judged.push(judge(mesh, policy, rule, case)?);
        }
    }
    describe(&selecting, &judged, case, &mut checks);
    let decision = case.decide(&set);
    let is_allowed = decision.verdict == Verdict::Allow;
    if decision.policy.is_none() {
        checks.push(check(
            "default",
            verdict(decision.verdict),
            sentence(decision.reason),
        ));
    }
    let dry_run = case
        .would_decide(&set)
        .filter(|would| (would.verdict, would.policy) != (decision.verdict, decision.policy))
        .map(|would| {
            let by = would
                .policy
                .map_or_else(String::new, |p| format!(" by {p}"));
            format!("{}{by} ({})", verdict(would.verdict), would.reason)
        });
    Ok(Explanation {
        verdict: verdict(decision.verdict),
        reason: decision.reason.code(),
        policy: decision.policy.map(str::to_owned),
        rule: decision.rule,
        to_be_allowed: if is_allowed {
            Vec::new()
        } else {
            changes(&judged, decision.reason, case)
        },
        checks,
        dry_run,
    })
}

/// The port's mode comes before every policy.
fn check_mtls(
    mesh: &Mesh,
    subject: &Subject,
    case: &Case,
    checks: &mut Vec<Check>,
) -> Option<Explanation> {
    let mode = match mesh.port_modes(subject).mode(case.port) {
        MtlsMode::Strict => "STRICT",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Disable => "DISABLE",
    };
    if let Some(peer) = &case.peer {
        checks.push(check("mtls", "pass", format!("the peer proved {peer}")));
        return None;
    }
    if mode != "STRICT" {
        let because = format!("port {} is {mode}: plaintext goes on to policy", case.port);
        checks.push(check("mtls", "pass", because));
        return None;
    }
    let because = format!(
        "port {} is STRICT and the caller came in plaintext",
        case.port
    );
    checks.push(check("mtls", "deny", because));
    Some(Explanation {
        verdict: "deny",
        reason: Reason::PlaintextRefused.code(),
        policy: None,
        rule: None,
        checks: Vec::new(),
        to_be_allowed: vec![
            "the caller has to come with mutual TLS (give it a sidecar), or a PeerAuthentication has to make the port PERMISSIVE"
                .to_owned(),
        ],
        dry_run: None,
    })
}

/// Tokens come next.
fn check_token(judged: token::Judged, checks: &mut Vec<Check>) -> Option<Explanation> {
    match judged {
        token::Judged::NoRequest => None,
        token::Judged::Passed(because) => {
            checks.push(check("token", "pass", because));
            None
        }
        token::Judged::Ignored(because) => {
            checks.push(check("token", "ignored", because));
            None
        }
        token::Judged::Refused { reason, wanted } => {
            checks.push(check("token", "deny", reason.code()));
            Some(Explanation {
                verdict: "deny",
                reason: reason.code(),
                policy: None,
                rule: None,
                checks: Vec::new(),
                to_be_allowed: vec![wanted],
                dry_run: None,
            })
        }
    }
}

fn judge<'a>(
    mesh: &Mesh,
    policy: &'a AuthorizationPolicy,
    rule: usize,
    case: &Case,
) -> Result<Judged<'a>, PolicyError> {
    let matches = parts::rule_matches(policy, rule, mesh.defaults(), case)?;
    let mut best: Option<Vec<Part>> = None;
    for alternative in parts::alternatives(policy, rule) {
        let mut missing = Vec::new();
        for part in alternative {
            if parts::part_matches(policy, &part, mesh.defaults(), case)? == matches {
                missing.push(part);
            }
        }
        // Of a rule that matches, the parts that make it match are of interest; else those that keep it from it.
        let is_better = best.as_ref().is_none_or(|best| match matches {
            true => missing.len() > best.len(),
            false => missing.len() < best.len(),
        });
        if is_better {
            best = Some(missing);
        }
    }
    Ok(Judged {
        policy,
        rule,
        matches,
        missing: best.unwrap_or_default(),
    })
}

fn describe(
    selecting: &[AuthorizationPolicy],
    judged: &[Judged<'_>],
    case: &Case,
    checks: &mut Vec<Check>,
) {
    for wanted in [PolicyAction::Deny, PolicyAction::Allow, PolicyAction::Audit] {
        for policy in selecting.iter().filter(|p| p.action() == wanted) {
            let name = format!("{} {}", action(policy), title(policy));
            let dry_run = if policy.dry_run { " (dry run)" } else { "" };
            if policy.rules.is_empty() {
                checks.push(check(
                    format!("{name}{dry_run}"),
                    "no match",
                    "it has no rules",
                ));
            }
            for j in judged.iter().filter(|j| std::ptr::eq(j.policy, policy)) {
                let label = format!("{name} rules[{}]{dry_run}", j.rule);
                if !j.matches {
                    let because: Vec<_> = j.missing.iter().map(|p| miss(p, case)).collect();
                    checks.push(check(label, "no match", because.join("; ")));
                    continue;
                }
                let verdict = match (policy.dry_run, wanted) {
                    (false, PolicyAction::Deny) => "deny",
                    (false, PolicyAction::Allow) => "allow",
                    _ => "match",
                };
                let because = match j.missing.len() {
                    0 => "it asks for nothing: everything matches".to_owned(),
                    n => format!("all of its {n} part(s) match"),
                };
                checks.push(check(label, verdict, because));
            }
        }
    }
}

/// A part that does not match, and what came instead.
fn miss(part: &Part, case: &Case) -> String {
    let wanted = part.wanted.join(", ");
    let wants = if part.is_negative {
        "excludes"
    } else {
        "wants"
    };
    let subject = match part.path.rsplit('.').next() {
        Some("values" | "notValues") => &part.name,
        _ => &part.path,
    };
    format!(
        "{subject} {wants} {wanted}; here it is {}",
        present(&part.name, case)
    )
}

/// What a case has in the place of a field or attribute.
fn present(name: &str, case: &Case) -> String {
    let http = case.http.as_ref();
    let token = http.and_then(|http| http.token.as_ref());
    let of_peer = |part: fn(&mesh_auth::SpiffeId) -> Option<String>| {
        case.peer.as_ref().map_or_else(
            || "plaintext, without identity".to_owned(),
            |peer| part(peer).unwrap_or_else(|| "not in the peer's identity".to_owned()),
        )
    };
    let of_request = |part: &dyn Fn(&super::Http) -> String| {
        http.map_or_else(|| "no HTTP request".to_owned(), part)
    };
    let of_token = |part: &dyn Fn(&mesh_auth::token::VerifiedToken) -> Option<String>| {
        token.map_or_else(
            || "a request without token".to_owned(),
            |token| part(token).unwrap_or_else(|| "not in the token".to_owned()),
        )
    };
    let words = |words: &[&str]| (!words.is_empty()).then(|| words.join(", "));
    match name {
        "principals" | "notPrincipals" | "source.principal" => {
            of_peer(|peer| peer.as_str().strip_prefix("spiffe://").map(str::to_owned))
        }
        "namespaces" | "notNamespaces" | "source.namespace" => {
            of_peer(|peer| account(peer).map(|(namespace, _)| namespace))
        }
        "serviceAccounts" | "notServiceAccounts" | "source.serviceAccount" => of_peer(|peer| {
            account(peer).map(|(namespace, account)| format!("{namespace}/{account}"))
        }),
        "ipBlocks" | "notIpBlocks" | "source.ip" => case.source_ip.to_string(),
        "remoteIpBlocks" | "notRemoteIpBlocks" | "remote.ip" => of_request(&|http| {
            let forwarded = http.headers.get("x-forwarded-for");
            let forwarded = forwarded.and_then(|v| v.to_str().ok());
            format!(
                "{} via {}",
                forwarded.unwrap_or("no x-forwarded-for"),
                case.source_ip
            )
        }),
        "requestPrincipals" | "notRequestPrincipals" | "request.auth.principal" => {
            of_token(&|token| token.principal().map(str::to_owned))
        }
        "request.auth.audiences" => {
            of_token(&|token| words(&token.audiences().collect::<Vec<_>>()))
        }
        "request.auth.presenter" => of_token(&|token| token.presenter().map(str::to_owned)),
        "scopes" => of_token(&|token| {
            let scopes = token.scopes().iter();
            words(&scopes.map(AsRef::as_ref).collect::<Vec<_>>())
        }),
        "binding" => of_token(&|_| Some("a token that is not bound to the peer".to_owned())),
        "hosts" | "notHosts" => of_request(&|http| http.host.clone()),
        "methods" | "notMethods" => of_request(&|http| http.method.to_string()),
        "paths" | "notPaths" => of_request(&|http| http.path.clone()),
        "ports" | "notPorts" | "destination.port" => case.port.to_string(),
        "destination.ip" => case.destination_ip.to_string(),
        "connection.sni" => case.sni.clone().unwrap_or_else(|| "not sent".to_owned()),
        _ => present_key(name, &of_request, &of_token),
    }
}

/// Tells one thing of a request, or that there is none.
type OfRequest<'a> = dyn Fn(&dyn Fn(&super::Http) -> String) -> String + 'a;
/// Tells one thing of a token, or that there is none.
type OfToken<'a> =
    dyn Fn(&dyn Fn(&mesh_auth::token::VerifiedToken) -> Option<String>) -> String + 'a;

/// What a case has for `request.headers[x]` or `request.auth.claims[x][y]`.
fn present_key(name: &str, of_request: &OfRequest<'_>, of_token: &OfToken<'_>) -> String {
    let keys = |prefix: &str| {
        let rest = name
            .strip_prefix(prefix)?
            .strip_prefix('[')?
            .strip_suffix(']')?;
        Some(rest.split("][").collect::<Vec<_>>())
    };
    if let Some(header) = keys("request.headers") {
        return of_request(&|http| {
            let value = http.headers.get(header.concat());
            value
                .and_then(|v| v.to_str().ok())
                .unwrap_or("not sent")
                .to_owned()
        });
    }
    if let Some(path) = keys("request.auth.claims") {
        return of_token(&|token| {
            let mut value = token.claims().get(path.first()?)?;
            for key in path.iter().skip(1) {
                value = value.as_object()?.get(key)?;
            }
            Some(
                value
                    .as_str()
                    .map_or_else(|| "of another kind".to_owned(), str::to_owned),
            )
        });
    }
    "something else".to_owned()
}

/// Namespace and service account of an identity that has them.
fn account(peer: &mesh_auth::SpiffeId) -> Option<(String, String)> {
    let rest = peer.path().strip_prefix("/ns/")?;
    let (namespace, account) = rest.split_once("/sa/")?;
    Some((namespace.to_owned(), account.to_owned()))
}

/// What would have to be different.
fn changes(judged: &[Judged<'_>], reason: Reason, case: &Case) -> Vec<String> {
    let in_force = |wanted| {
        judged
            .iter()
            .filter(move |j| j.policy.action() == wanted && !j.policy.dry_run)
    };
    let mut changes: Vec<String> = in_force(PolicyAction::Deny)
        .filter(|j| j.matches)
        .map(|j| {
            let what = match j.missing.first() {
                Some(_) => {
                    let parts: Vec<_> = j.missing.iter().map(|p| p.path.as_str()).collect();
                    format!("one of {} has to stop matching", parts.join(", "))
                }
                None => "it matches everything".to_owned(),
            };
            format!(
                "DENY {} rules[{}] must not match: {what}",
                title(j.policy),
                j.rule
            )
        })
        .collect();
    let is_allowed = in_force(PolicyAction::Allow).any(|j| j.matches);
    let nearest = in_force(PolicyAction::Allow)
        .filter(|j| !j.matches)
        .min_by_key(|j| j.missing.len());
    match nearest {
        _ if is_allowed => {}
        Some(near) => {
            let parts: Vec<_> = near.missing.iter().map(|part| miss(part, case)).collect();
            changes.push(format!(
                "nearest is ALLOW {} rules[{}]: {}",
                title(near.policy),
                near.rule,
                parts.join("; and ")
            ));
        }
        None => changes.push(way_in(reason).to_owned()),
    }
    changes
}

fn way_in(reason: Reason) -> &'static str {
    match reason {
        Reason::DeniedByDefault => {
            "no ALLOW policy with rules selects the workload and the mesh denies by default: add an ALLOW policy"
        }
        Reason::UnauthenticatedPeer => {
            "the caller has no identity: it has to come with mutual TLS, or an ALLOW policy has to let plaintext in"
        }
        Reason::ForeignTrustDomain => {
            "the caller is of another trust domain: add an ALLOW policy that names its principal"
        }
        _ => {
            "no ALLOW rule selects the workload: add one, or remove the ALLOW policies that have none"
        }
    }
}

fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::AllowedByDefault => {
            "no ALLOW policy selects the workload: authenticated peers of the own trust domain are let in"
        }
        Reason::NoAllowPolicyMatched | Reason::InsufficientScope => {
            "ALLOW policies select the workload and none matched"
        }
        other => way_in(other),
    }
}

/// The word for a verdict.
pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

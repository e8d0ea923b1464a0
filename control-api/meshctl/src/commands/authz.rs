//! `meshctl authz why`: a decision that was made, or one that would be.

use std::process::ExitCode;

use mesh_proto::admin::{FindDecisionRequest, FindDecisionResponse};
use mesh_proto::mesh::DecisionFacts;
use serde_json::json;

use super::documents;
use crate::cli::{Format, WhyArgs};
use crate::connect::Admin;
use crate::failure::Failure;
use crate::moment;
use crate::offline::case::{self, Case, Http};
use crate::offline::explain::{self, Explanation};
use crate::offline::token::Tokens;
use crate::offline::{Mesh, Subject};
use crate::output::{self, Cell, Table, Tone};

/// Largest token or claims file.
const MAX_TOKEN: usize = 64 << 10;

pub(super) async fn why(
    admin: &mut Admin,
    arguments: WhyArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    match arguments.id.clone() {
        Some(id) => made(admin, &id, arguments.workload, format).await,
        None => supposed(admin, &arguments, format).await,
    }
}

/// A decision that a sidecar made and remembers.
async fn made(
    admin: &mut Admin,
    id: &str,
    workload: Option<String>,
    format: Format,
) -> Result<ExitCode, Failure> {
    let request = FindDecisionRequest {
        id: id.to_owned(),
        workload: workload.unwrap_or_default(),
    };
    let found = admin
        .find_decision(request)
        .await
        .map_err(|status| Failure::from_status("the decision could not be asked for", &status))?
        .into_inner();
    let Some(decision) = &found.decision else {
        return Err(unknown(id, &found));
    };
    // With what is stored now: the policies may have changed since.
    let mesh = documents::live(admin).await?;
    // A token that was refused is not remembered: what policies would have made of it is not known.
    let is_about_token = decision.reason.starts_with("token_");
    let now = mesh.subject(&found.workload).filter(|_| !is_about_token);
    let now = now.and_then(|subject| {
        let case = remembered(decision)?;
        explain::explain(&mesh, &subject, &case, Tokens::Verified).ok()
    });
    let value = json!({
        "workload": found.workload,
        "decision": {
            "id": decision.id, "at": moment::rfc3339(decision.at_unix_ms / 1000), "verdict": "deny",
            "reason": decision.reason, "policy": text(&decision.policy),
            "rule": decision.rule.checked_sub(1), "revision": decision.revision,
            "peer": text(&decision.peer), "source": decision.source, "port": decision.port,
            "request": decision.request.as_ref().map(|r| json!({
                "method": r.method, "host": r.host, "path": r.path,
            })),
            "token": decision.token.as_ref().map(|t| json!({
                "issuer": t.issuer, "subject": t.subject, "audiences": t.audiences, "scopes": t.scopes,
            })),
        },
        "with_current_policies": now,
    });
    output::print(format, &value, || {
        let mut table = Table::new(&["", ""]);
        for (name, value) in facts(&found.workload, decision) {
            table.row([Cell::toned(name, Tone::Dim), value.into()]);
        }
        let mut shown = table
            .render(output::colour())
            .trim_start_matches('\n')
            .to_owned();
        if is_about_token {
            shown.push_str("\nthe token was refused before any policy was looked at; try it with --token-file\n");
        }
        if let Some(now) = &now {
            shown.push_str("\nwith the policies that are stored now (headers and token apart, which are not remembered)\n");
            shown.push_str(&checks(now));
        }
        shown
    })?;
    Ok(ExitCode::SUCCESS)
}

fn unknown(id: &str, found: &FindDecisionResponse) -> Failure {
    let failure = Failure::problem(format!("no sidecar remembers decision {id}"));
    let failure = match (found.answered, found.silent.len()) {
        (0, 0) => failure.why("no sidecar is connected"),
        (answered, 0) => failure.why(format!(
            "{answered} sidecar(s) were asked; each remembers its last denials only, and none from before its start"
        )),
        (answered, _) => failure.why(format!(
            "{answered} sidecar(s) were asked, and these did not answer: {}",
            found.silent.join(", ")
        )),
    };
    failure.next("look for `decision` with this id in the logs of the sidecars, or describe the request with --workload and --peer")
}

fn text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn facts(workload: &str, decision: &DecisionFacts) -> Vec<(&'static str, String)> {
    let by = match (decision.policy.as_str(), decision.rule.checked_sub(1)) {
        ("", _) => "no policy".to_owned(),
        (policy, Some(rule)) => format!("{policy} rules[{rule}]"),
        (policy, None) => policy.to_owned(),
    };
    let mut facts = vec![
        ("decision", decision.id.clone()),
        ("when", moment::rfc3339(decision.at_unix_ms / 1000)),
        ("workload", workload.to_owned()),
        ("verdict", format!("deny ({})", decision.reason)),
        (
            "decided by",
            format!("{by}, revision {}", decision.revision),
        ),
        (
            "peer",
            text(&decision.peer).unwrap_or("none: plaintext").to_owned(),
        ),
        ("source", decision.source.clone()),
        ("port", decision.port.to_string()),
    ];
    if let Some(request) = &decision.request {
        let host = match request.host.as_str() {
            "" => String::new(),
            host => format!(" of {host}"),
        };
        facts.push((
            "request",
            format!("{} {}{host}", request.method, request.path),
        ));
    }
    if let Some(token) = &decision.token {
        facts.push((
            "token",
            format!(
                "of {} from {}, scopes {}",
                token.subject,
                token.issuer,
                token.scopes.join(" ")
            ),
        ));
    }
    facts
}

/// The case as far as it is remembered.
fn remembered(decision: &DecisionFacts) -> Option<Case> {
    let mut case = Case::plaintext(u16::try_from(decision.port).ok()?);
    if !decision.peer.is_empty() {
        case.peer = case::peer(&decision.peer, "").ok()?;
    }
    if let Ok(source) = decision.source.parse::<std::net::SocketAddr>() {
        case.source_ip = source.ip();
    }
    if let Some(request) = &decision.request {
        case.http = Some(Http {
            method: case::method(&request.method).ok()?,
            host: request.host.clone(),
            path: request.path.clone(),
            headers: http::HeaderMap::new(),
            token: None,
        });
    }
    Some(case)
}

/// A decision that would be made.
async fn supposed(
    admin: &mut Admin,
    arguments: &WhyArgs,
    format: Format,
) -> Result<ExitCode, Failure> {
    let mesh = documents::live(admin).await?;
    let name = arguments.workload.as_deref().unwrap_or_default();
    let subject = mesh.subject(name).ok_or_else(|| {
        Failure::problem(format!("there is no workload `{name}`"))
            .next("run `meshctl get workloads` to see which there are; give it as NAMESPACE/NAME")
    })?;
    let case = suppose(&mesh, &subject, arguments)?;
    let tokens = Tokens::Judged(moment::unix_now());
    let explanation = explain::explain(&mesh, &subject, &case, tokens)
        .map_err(|error| Failure::problem("the stored policies do not compile").why(error))?;
    let value = json!({"workload": name, "decision": explanation});
    output::print(format, &value, || {
        let by = match (&explanation.policy, explanation.rule) {
            (Some(policy), Some(rule)) => format!(" by {policy} rules[{rule}]"),
            _ => String::new(),
        };
        format!(
            "{}{by} ({})\n\n{}",
            explanation.verdict,
            explanation.reason,
            checks(&explanation)
        )
    })?;
    Ok(match explanation.verdict {
        "allow" => ExitCode::SUCCESS,
        _ => ExitCode::from(1),
    })
}

fn suppose(mesh: &Mesh, subject: &Subject, arguments: &WhyArgs) -> Result<Case, Failure> {
    let usage =
        |option: &'static str| move |error: String| Failure::usage(format!("{option}: {error}"));
    let port = arguments
        .port
        .unwrap_or_else(|| match mesh.ports(subject)[..] {
            [only] => u16::try_from(only).unwrap_or(80),
            _ => 80,
        });
    let mut case = Case::plaintext(port);
    case.source_ip = arguments.source_ip;
    let peer = arguments.peer.as_deref().unwrap_or("none");
    case.peer = case::peer(peer, &mesh.defaults().trust_domain).map_err(usage("--peer"))?;
    let token = token(arguments)?;
    let is_http = arguments.method.is_some()
        || arguments.path.is_some()
        || arguments.host.is_some()
        || !arguments.headers.is_empty()
        || token.is_some();
    if is_http {
        let headers = arguments
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()));
        let method = arguments.method.as_deref().unwrap_or("GET");
        let path = arguments.path.as_deref().unwrap_or("/");
        case.http = Some(Http {
            method: case::method(method).map_err(usage("--method"))?,
            host: arguments.host.clone().unwrap_or_default(),
            path: case::path(path).map_err(usage("--path"))?,
            headers: case::headers(headers).map_err(usage("--header"))?,
            token,
        });
    }
    Ok(case)
}

/// The token, from its claims or from itself. Neither is ever printed.
fn token(arguments: &WhyArgs) -> Result<Option<mesh_auth::token::VerifiedToken>, Failure> {
    let read = |file: &std::path::Path| {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::usage(format!("cannot read {}", file.display())).why(error)
        })?;
        if text.len() > MAX_TOKEN {
            return Err(Failure::usage(format!(
                "{} has more than {MAX_TOKEN} bytes",
                file.display()
            )));
        }
        Ok(text)
    };
    let claims = match (&arguments.token_claims, &arguments.token_file) {
        (Some(file), _) => read(file)?,
        (None, Some(file)) => claims_of(read(file)?.trim()).ok_or_else(|| {
            Failure::usage(format!("{} holds no JWT", file.display()))
                .next("give a file with a JWT in compact form, or its claims with --token-claims")
        })?,
        (None, None) => return Ok(None),
    };
    case::token(&claims)
        .map(Some)
        .map_err(|error| Failure::usage("the token's claims were refused").why(error))
}

/// The claims of a JWT in compact form.
fn claims_of(token: &str) -> Option<String> {
    use base64::Engine as _;
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .ok()?;
    parts
        .next()
        .is_none()
        .then(|| String::from_utf8(claims).ok())?
}

/// The chain of checks, and what would have to be different.
fn checks(explanation: &Explanation) -> String {
    let mut table = Table::new(&["CHECK", "VERDICT", "BECAUSE"]);
    for check in &explanation.checks {
        let tone = match check.verdict {
            "allow" | "pass" => Tone::Good,
            "deny" => Tone::Bad,
            _ => Tone::Dim,
        };
        table.row([
            check.check.as_str().into(),
            Cell::toned(check.verdict, tone),
            check.because.as_str().into(),
        ]);
    }
    let mut text = table.render(output::colour());
    if !explanation.to_be_allowed.is_empty() {
        text.push_str("\nto be allowed\n");
        for change in &explanation.to_be_allowed {
            text.push_str(&format!("  - {change}\n"));
        }
    }
    if let Some(dry_run) = &explanation.dry_run {
        text.push_str(&format!(
            "\nwith the dry-run policies in force: {dry_run}\n"
        ));
    }
    text
}

//! What an answer must be. Said here once more, and not taken from the sidecar: who changes one has to change the other.

use mesh_auth::Reason;
use serde_json::Value;

use super::cases::Case;
use crate::exchange::Exchange;

/// What must become of a case.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// The application answers, and is told that this is the subject; empty: that there is none.
    Subject(&'static str),
    /// The sidecar answers.
    Refused(Reason),
    /// The same to a gRPC client.
    GrpcRefused(Reason),
}

impl Expected {
    pub(super) fn summary(self) -> String {
        match self {
            Self::Subject("") => "200, no subject".to_owned(),
            Self::Subject(subject) => format!("200, subject {subject}"),
            Self::Refused(reason) => format!("{} {reason}", status(reason)),
            Self::GrpcRefused(reason) => format!("gRPC {reason}"),
        }
    }
}

fn status(reason: Reason) -> u16 {
    match reason {
        Reason::TokenDuplicate | Reason::BadRequest => 400,
        Reason::KeysUnavailable | Reason::IntrospectionFailed => 503,
        Reason::InsufficientScope | Reason::NoAllowPolicyMatched | Reason::DeniedByPolicy => 403,
        _ => 401,
    }
}

/// The error attribute of RFC 6750 §3.1 and RFC 9470 §3; `None`: no challenge, or one without an error.
fn error(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::TokenMissing => None,
        Reason::TokenDuplicate => Some("invalid_request"),
        Reason::InsufficientScope => Some("insufficient_scope"),
        Reason::TokenTooOld => Some("insufficient_user_authentication"),
        _ if status(reason) == 401 => Some("invalid_token"),
        _ => None,
    }
}

/// Everything about an answer that is not as it must be.
pub(super) fn problems(case: &Case, answer: &Exchange) -> Vec<String> {
    let mut problems = match case.expected {
        Expected::Subject(subject) => passed(subject, answer),
        Expected::Refused(reason) => refused(reason, answer),
        Expected::GrpcRefused(reason) => grpc_refused(reason, answer),
    };
    if case.leaks_into(answer.text()) {
        problems.push("the answer repeats the token".to_owned());
    }
    problems
}

fn passed(subject: &str, answer: &Exchange) -> Vec<String> {
    let mut problems = Vec::new();
    check(&mut problems, "status", &answer.status, &200);
    // The application sends back what reached it.
    let told: Value = serde_json::from_str(answer.body()).unwrap_or(Value::Null);
    let expected = if subject.is_empty() {
        Value::Null
    } else {
        subject.into()
    };
    check(&mut problems, "x-subject", &told["x-subject"], &expected);
    problems
}

fn refused(reason: Reason, answer: &Exchange) -> Vec<String> {
    let mut problems = Vec::new();
    let p = &mut problems;
    check(p, "status", &answer.status, &status(reason));
    let code = reason.code();
    check(p, "reason", &answer.field("postern-reason"), &Some(code));
    challenge(p, reason, answer);
    let kind = answer.field("content-type");
    check(p, "content-type", &kind, &Some("application/problem+json"));
    match serde_json::from_str::<Value>(answer.body()) {
        Ok(body) => {
            check(
                p,
                "status in the body",
                &body["status"],
                &status(reason).into(),
            );
            check(p, "reason in the body", &body["reason"], &code.into());
            let id = answer.field("postern-decision-id").unwrap_or_default();
            check(
                p,
                "decision id in the body",
                &body["decision_id"],
                &id.into(),
            );
        }
        Err(error) => p.push(format!("the body is no problem document: {error}")),
    }
    decision_id(p, answer);
    problems
}

fn grpc_refused(reason: Reason, answer: &Exchange) -> Vec<String> {
    let mut problems = Vec::new();
    let p = &mut problems;
    check(p, "status", &answer.status, &200);
    let grpc = if status(reason) == 401 { "16" } else { "7" };
    check(p, "grpc-status", &answer.field("grpc-status"), &Some(grpc));
    let code = reason.code();
    check(
        p,
        "grpc-message",
        &answer.field("grpc-message"),
        &Some(code),
    );
    check(p, "body", &answer.body(), &"");
    challenge(p, reason, answer);
    decision_id(p, answer);
    problems
}

fn challenge(problems: &mut Vec<String>, reason: Reason, answer: &Exchange) {
    let told = answer.field("www-authenticate");
    if status(reason) == 503 || status(reason) == 403 && error(reason).is_none() {
        return check(problems, "www-authenticate", &told, &None);
    }
    let told = told.unwrap_or_default();
    if !told.starts_with("Bearer ") {
        problems.push(format!("no challenge: {told:?}"));
    }
    let attribute = told
        .split("error=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    check(
        problems,
        "error in the challenge",
        &attribute,
        &error(reason),
    );
    let more = match reason {
        Reason::TokenTooOld => "max_age=\"300\"",
        Reason::InsufficientScope => "scope=\"orders.read\"",
        _ => "",
    };
    if !told.contains(more) {
        problems.push(format!("{more} is not in the challenge: {told}"));
    }
}

fn decision_id(problems: &mut Vec<String>, answer: &Exchange) {
    let id = answer.field("postern-decision-id").unwrap_or_default();
    let is_id = id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_id || id.bytes().all(|b| b == b'0') {
        problems.push(format!("no decision id: {id:?}"));
    }
}

fn check<T: PartialEq + std::fmt::Debug>(
    problems: &mut Vec<String>,
    what: &str,
    got: &T,
    wanted: &T,
) {
    if got != wanted {
        problems.push(format!("{what} is {got:?}, not {wanted:?}"));
    }
}

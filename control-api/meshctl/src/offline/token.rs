//! What becomes of the token of a made-up request before policies see it.

use mesh_auth::Reason;
use mesh_auth::token::{TokenPolicyError, VerifiedToken};

use super::{Case, Mesh, Subject};

/// How far a token is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// It is taken as verified: policies alone are tried.
    Verified,
    /// The rules on tokens judge its claims at this time, Unix seconds. Signature, key, place and binding are taken as good.
    Judged(i64),
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// There is no request, and so none.
    NoRequest,
    /// The request goes on, for this reason.
    Passed(String),
    /// The request goes on, and policies do not see the token.
    Ignored(String),
    /// The request is refused.
    Refused {
        /// Why.
        reason: Reason,
        /// What would have to be different.
        wanted: String,
    },
}

/// Judges the token of `case`, and takes it out where no rule asks for one.
pub(super) fn judge(
    mesh: &Mesh,
    subject: &Subject,
    case: &mut Case,
    tokens: Tokens,
) -> Result<Judged, TokenPolicyError> {
    let port = case.port;
    let Some(http) = &mut case.http else {
        return Ok(Judged::NoRequest);
    };
    let none = || Judged::Passed("none came with the request".to_owned());
    let Tokens::Judged(now) = tokens else {
        let of = |token: &VerifiedToken| {
            let principal = token.principal().unwrap_or("nobody (no iss or sub)");
            Judged::Passed(format!("taken as verified, of {principal}"))
        };
        return Ok(http.token.as_ref().map_or_else(none, of));
    };
    let Some(rules) = mesh.tokens(subject)? else {
        return Ok(match http.token.take() {
            Some(_) => Judged::Ignored(
                "no RequestAuthentication selects the workload: policies see no token".to_owned(),
            ),
            None => none(),
        });
    };
    let judged = match &http.token {
        Some(token) => rules.judge_claims(token.claims(), now).map(|provider| {
            format!(
                "{} takes it: issuer, audience, times and claims fit; signature, key, place and binding are taken as good",
                provider.name()
            )
        }),
        None if rules.requires(&http.path, port).is_some() => Err(Reason::TokenMissing),
        None => Ok("none came with the request, and none is required here".to_owned()),
    };
    Ok(judged.map_or_else(
        |reason| {
            let providers: Vec<_> = rules.providers().iter().map(|p| &**p.name()).collect();
            Judged::Refused {
                reason,
                wanted: format!(
                    "the request has to come with a token that {} takes; this one: {}",
                    providers.join(" or "),
                    reason.code()
                ),
            }
        },
        Judged::Passed,
    ))
}

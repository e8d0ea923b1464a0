//! The attributes that conditions speak of.

use http::HeaderName;

use crate::headers;

/// The attribute of a condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    Header(HeaderName),
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    TokenPrincipal,
    TokenAudiences,
    TokenPresenter,
    /// Names, outermost first.
    TokenClaim(Box<[Box<str>]>),
    DestinationIp,
    DestinationPort,
    Sni,
}

/// Nested claims deeper than any token has.
const MAX_CLAIM_DEPTH: usize = 16;
const KNOWN: &str = "request.headers[NAME], source.ip, remote.ip, source.namespace, source.principal, \
     source.serviceAccount, request.auth.principal, request.auth.audiences, request.auth.presenter, \
     request.auth.claims[NAME], destination.ip, destination.port, connection.sni";

impl Attribute {
    /// Parses the key of a condition.
    ///
    /// # Errors
    /// What is wrong with it, and what is known.
    pub(super) fn parse(key: &str) -> Result<Self, String> {
        let shown = key.escape_default();
        if let Some(rest) = key.strip_prefix("request.headers") {
            return match brackets(rest).as_deref() {
                Some([name]) => header(name),
                _ => Err(format!("'{shown}' must be `request.headers[NAME]`")),
            };
        }
        if let Some(rest) = key.strip_prefix("request.auth.claims") {
            return match brackets(rest) {
                Some(names) if names.len() <= MAX_CLAIM_DEPTH => Ok(Self::TokenClaim(
                    names.into_iter().map(Into::into).collect(),
                )),
                _ => Err(format!(
                    "'{shown}' must be `request.auth.claims[NAME]`, nested `[a][b]` at most {MAX_CLAIM_DEPTH} deep"
                )),
            };
        }
        Ok(match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::SourceNamespace,
            "source.principal" => Self::SourcePrincipal,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "request.auth.principal" => Self::TokenPrincipal,
            "request.auth.audiences" => Self::TokenAudiences,
            "request.auth.presenter" => Self::TokenPresenter,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            _ if key.starts_with("experimental.") => {
                return Err(format!(
                    "'{shown}' is not supported: it speaks of filters that only Envoy has"
                ));
            }
            _ => return Err(format!("'{shown}' is unknown; known are {KNOWN}")),
        })
    }

    /// True for what only an HTTP request has.
    pub(super) fn needs_request(&self) -> bool {
        match self {
            Self::Header(_)
            | Self::RemoteIp
            | Self::TokenPrincipal
            | Self::TokenAudiences
            | Self::TokenPresenter
            | Self::TokenClaim(_) => true,
            Self::SourceIp
            | Self::SourceNamespace
            | Self::SourcePrincipal
            | Self::SourceServiceAccount
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::Sni => false,
        }
    }
}

/// `[a][b]` as its names; `None` for anything else.
fn brackets(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<_> = inner.split("][").collect();
    names
        .iter()
        .all(|name| {
            !name.is_empty() && !name.contains(['[', ']']) && !name.chars().any(char::is_control)
        })
        .then_some(names)
}

fn header(name: &str) -> Result<Attribute, String> {
    let shown = name.escape_default();
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(format!(
            "'{shown}' is no header that can be matched: use `hosts`, `methods` or `paths`"
        ));
    }
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("'{shown}' is not a header name"))?;
    if headers::is_reserved(&parsed) {
        return Err(format!(
            "'{shown}' is a header that only the mesh sets: it is removed from requests before policy looks at them"
        ));
    }
    Ok(Attribute::Header(parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_strictly() {
        let claim =
            |names: &[&str]| Attribute::TokenClaim(names.iter().map(|n| Box::from(*n)).collect());
        for (key, expected) in [
            (
                "request.headers[X-Tenant]",
                Attribute::Header(HeaderName::from_static("x-tenant")),
            ),
            ("request.auth.claims[iss]", claim(&["iss"])),
            ("request.auth.claims[a][b-c]", claim(&["a", "b-c"])),
            (
                "request.auth.claims[https://x.example/roles]",
                claim(&["https://x.example/roles"]),
            ),
            ("source.serviceAccount", Attribute::SourceServiceAccount),
            ("connection.sni", Attribute::Sni),
        ] {
            assert_eq!(Attribute::parse(key).as_ref(), Ok(&expected), "{key}");
        }
        for key in [
            "",
            "source.IP",
            "request.header[x]",
            "request.headers",
            "request.headers[]",
            "request.headers[a][b]",
            "request.headers[a b]",
            "request.headers[:path]",
            "request.headers[Host]",
            "request.headers[x-forwarded-client-cert]",
            "request.auth.claims",
            "request.auth.claims[]",
            "request.auth.claims[a]b",
            "request.auth.claims[a[b]]",
            "request.auth.claims.a",
            "experimental.envoy.filters.network.mysql_proxy[db.table]",
            "source.user",
        ] {
            let problem = Attribute::parse(key).expect_err(key);
            assert!(!problem.chars().any(char::is_control));
        }
    }
}

//! What an HTTP/2 request must be before anything else looks at it. HTTP/1.1 requests are admitted by their parser.

use std::borrow::Cow;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri, header, request};
use mesh_http1::BodyLength;

use super::upstream::declared_length;

/// Why a request was not admitted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AdmitError {
    /// Neither `:authority` nor `host`.
    #[error("no :authority and no host")]
    NoAuthority,
    /// `host` names another authority than `:authority`, or is given twice.
    #[error("host and :authority differ")]
    HostMismatch,
    /// User information in the authority.
    #[error("user information in :authority")]
    UserInfo,
    /// The path is not one that can be forwarded.
    #[error(":path must start with '/'")]
    Path,
    /// The path has spellings that servers read differently.
    #[error("{0}")]
    AmbiguousPath(#[from] mesh_auth::path::PathError),
    /// A framing header that HTTP/2 does not have.
    #[error("header '{0}' is not allowed in HTTP/2")]
    ConnectionHeader(&'static str),
}

/// Admits an HTTP/2 request: one authority, a forwardable path, no connection headers; cookie crumbs joined.
///
/// # Errors
/// See [`AdmitError`].
pub fn http2(head: &mut request::Parts) -> Result<(), AdmitError> {
    for name in [
        "connection",
        "transfer-encoding",
        "upgrade",
        "keep-alive",
        "proxy-connection",
    ] {
        if head.headers.contains_key(name) {
            return Err(AdmitError::ConnectionHeader(name));
        }
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(AdmitError::HostMismatch);
    }
    let authority = match (head.uri.authority(), host) {
        (Some(authority), None) => authority.clone(),
        (Some(authority), Some(host))
            if host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            authority.clone()
        }
        (Some(_), Some(_)) => return Err(AdmitError::HostMismatch),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| AdmitError::NoAuthority)?
        }
        (None, None) => return Err(AdmitError::NoAuthority),
    };
    if authority.as_str().contains('@') {
        return Err(AdmitError::UserInfo);
    }
    let path = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let forwardable = path.starts_with('/') || (path == "*" && head.method == Method::OPTIONS);
    if !forwardable {
        return Err(AdmitError::Path);
    }
    if host.is_some() {
        head.headers.remove(header::HOST);
    }
    if head.uri.authority().is_none() {
        set_authority(head, authority);
    }
    join_cookies(&mut head.headers);
    Ok(())
}

/// Puts the path of a request into its one spelling, on which policy decides and which the application gets.
///
/// # Errors
/// [`AdmitError::AmbiguousPath`].
pub fn path(head: &mut request::Parts) -> Result<(), AdmitError> {
    let Cow::Owned(normal) = mesh_auth::path::normalize(head.uri.path())? else {
        return Ok(());
    };
    let target = match head.uri.query() {
        Some(query) => format!("{normal}?{query}"),
        None => normal,
    };
    let target = PathAndQuery::try_from(target).map_err(|_| AdmitError::Path)?;
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = Some(target);
    head.uri = Uri::from_parts(parts).map_err(|_| AdmitError::Path)?;
    Ok(())
}

/// Sets the authority of a request target in origin form.
pub fn set_authority(head: &mut request::Parts, authority: Authority) {
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    head.uri = Uri::from_parts(parts).unwrap_or_default();
}

/// How the body of an HTTP/2 request is framed.
pub fn http2_length(head: &request::Parts, ended: bool) -> BodyLength {
    if ended {
        return match declared_length(&head.headers) {
            Some(_) => BodyLength::Length(0),
            None => BodyLength::Empty,
        };
    }
    declared_length(&head.headers).map_or(BodyLength::Chunked, BodyLength::Length)
}

/// HTTP/2 may split the cookie header (RFC 9113 §8.2.3); HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for crumb in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = http::Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn requests_are_admitted_or_refused_by_rule() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            Result<(), AdmitError>,
        );
        let cases: &[Case] = &[
            ("http://a/x", &[], Ok(())),
            ("http://a/x", &[("host", "A")], Ok(())),
            (
                "http://a/x",
                &[("host", "b")],
                Err(AdmitError::HostMismatch),
            ),
            (
                "http://a/x",
                &[("host", "a"), ("host", "a")],
                Err(AdmitError::HostMismatch),
            ),
            ("/x", &[], Err(AdmitError::NoAuthority)),
            ("/x", &[("host", "a:80")], Ok(())),
            ("http://u@a/x", &[], Err(AdmitError::UserInfo)),
            (
                "http://a/x",
                &[("connection", "close")],
                Err(AdmitError::ConnectionHeader("connection")),
            ),
            (
                "http://a/x",
                &[("transfer-encoding", "chunked")],
                Err(AdmitError::ConnectionHeader("transfer-encoding")),
            ),
        ];
        for (uri, headers, expected) in cases {
            let mut head = parts(uri, headers);
            assert_eq!(&http2(&mut head), expected, "{uri} {headers:?}");
            if expected.is_ok() {
                assert!(head.uri.authority().is_some() && !head.headers.contains_key("host"));
            }
        }
    }

    #[test]
    fn the_path_is_rewritten_and_the_query_left_alone() {
        for (uri, expected) in [
            ("http://a/x?y=/../%2f", Some("http://a/x?y=/../%2f")),
            ("http://a//x/./%79/../z?q", Some("http://a/x/z?q")),
            ("/%61", Some("/a")),
            ("*", Some("*")),
            ("http://a", Some("http://a/")),
            ("http://a/x;y", None),
            ("http://a/%2e%2e/x", None),
        ] {
            let mut head = parts(uri, &[]);
            let result = path(&mut head).map(|()| head.uri.to_string());
            assert_eq!(result.ok().as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn cookie_crumbs_become_one_header() {
        let mut head = parts("http://a/", &[("cookie", "a=1"), ("cookie", "b=2")]);
        http2(&mut head).unwrap();
        let cookies: Vec<_> = head.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }
}

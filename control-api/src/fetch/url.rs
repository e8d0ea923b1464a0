//! The URLs that are fetched: `http` and `https`, a host, a path; nothing that could carry a secret into a log.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::PathAndQuery;

/// Longest URL.
const MAX_LENGTH: usize = 2_048;

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Why a text is not a URL that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No URL at all.
    #[error("not a URL with scheme, host and path of ASCII letters (RFC 3986)")]
    Malformed,
    /// Longer than 2048 bytes.
    #[error("longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Another scheme.
    #[error("the scheme must be http or https")]
    Scheme,
    /// `user@host`.
    #[error("a user name or password in a URL is not accepted")]
    UserInfo,
    /// `#...`.
    #[error("a fragment (`#`) has no meaning to a server")]
    Fragment,
    /// Port 0.
    #[error("port 0 cannot be dialled")]
    Port,
}

/// An absolute `http` or `https` URL without user information or fragment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Url {
    scheme: Scheme,
    /// Lower-case, IPv6 addresses without brackets.
    host: String,
    port: u16,
    /// Begins with `/`; may have a query.
    target: String,
}

impl Url {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// Says what is wrong; never repeats the text.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_LENGTH {
            return Err(UrlError::TooLong);
        }
        // `Uri` drops fragments without a word.
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let is_plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        if !is_plain {
            return Err(UrlError::Malformed);
        }
        let scheme = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            Some(_) => return Err(UrlError::Scheme),
            None => return Err(UrlError::Malformed),
        };
        let authority = uri.authority().ok_or(UrlError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        let host = host(authority.host()).ok_or(UrlError::Malformed)?;
        let port = match port_text(authority.as_str()) {
            None => scheme.default_port(),
            Some(text) => match text.parse() {
                Ok(0) => return Err(UrlError::Port),
                Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => port,
                _ => return Err(UrlError::Malformed),
            },
        };
        let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self {
            scheme,
            host,
            port,
            target: format!("{slash}{target}"),
        })
    }

    /// The URL that a `Location` header of this one's answer means: absolute, or a path on the same server.
    ///
    /// # Errors
    /// What is wrong with it. A path relative to this one (`../x`) is not resolved.
    pub fn join(&self, location: &str) -> Result<Self, UrlError> {
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme.as_str()));
        }
        if location.starts_with('/') {
            return Self::parse(&format!("{}{location}", self.origin()));
        }
        Self::parse(location)
    }

    /// How it is spoken to.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host, lower-case; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What a `Host` header says: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => self.host.clone(),
        };
        if self.port == self.scheme.default_port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Scheme, host and port, as in `https://login.example`.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Shows the origin and the path. A query may hold a secret and is shown as `?...`.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, query) = match self.target.split_once('?') {
            Some((path, _)) => (path, "?..."),
            None => (self.target.as_str(), ""),
        };
        write!(f, "{}{path}{query}", self.origin())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A host name or address that a resolver can be asked for.
fn host(text: &str) -> Option<String> {
    if let Some(inside) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return match inside.parse() {
            Ok(IpAddr::V6(ip)) => Some(ip.to_string()),
            _ => None,
        };
    }
    let named = text.strip_suffix('.').unwrap_or(text);
    let is_name = named.len() <= 253
        && named.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    is_name.then(|| named.to_ascii_lowercase())
}

/// What follows the colon of an authority without user information.
fn port_text(authority: &str) -> Option<&str> {
    let after_host = match authority.rfind(']') {
        Some(end) => &authority[end + 1..],
        None => authority,
    };
    after_host.split_once(':').map(|(_, port)| port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let cases = [
            ("https://login.example", "login.example", 443, "/"),
            ("HTTPS://Login.EXAMPLE./k", "login.example", 443, "/k"),
            ("http://10.0.0.1:8080/a?b=c", "10.0.0.1", 8080, "/a?b=c"),
            ("http://[::1]:81/x", "::1", 81, "/x"),
            ("https://a_b.example?q", "a_b.example", 443, "/?q"),
        ];
        for (text, host, port, target) in cases {
            let url = Url::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(
                (url.host(), url.port(), url.target()),
                (host, port, target),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_fetched_is_refused() {
        let long = format!("https://a.example/{}", "x".repeat(MAX_LENGTH));
        let cases = [
            ("", UrlError::Malformed),
            ("/keys", UrlError::Malformed),
            ("login.example/keys", UrlError::Malformed),
            ("ftp://a.example/", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::Malformed),
            ("gopher://a.example/", UrlError::Scheme),
            ("https://user:secret@a.example/", UrlError::UserInfo),
            ("https://user@a.example/", UrlError::UserInfo),
            ("https://a.example/#frag", UrlError::Fragment),
            ("https://a.example:0/", UrlError::Port),
            ("https://a.example:/", UrlError::Malformed),
            ("https://a.example:+1/", UrlError::Malformed),
            ("https://a.example:65536/", UrlError::Malformed),
            ("https:///keys", UrlError::Malformed),
            ("https://a..example/", UrlError::Malformed),
            ("https://a.example\\@b.example/", UrlError::Malformed),
            ("https://[::1/", UrlError::Malformed),
            ("https://[v1.a]/", UrlError::Malformed),
            ("https://b\u{fc}cher.example/", UrlError::Malformed),
            ("https://a.example/a b", UrlError::Malformed),
            (long.as_str(), UrlError::TooLong),
        ];
        for (text, expected) in cases {
            assert_eq!(Url::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_location_is_absolute_or_a_path_on_the_same_server() {
        let base = Url::parse("https://a.example:8443/x/y?z").unwrap();
        for (location, expected) in [
            ("/keys", "https://a.example:8443/keys"),
            ("//b.example/keys", "https://b.example/keys"),
            ("http://c.example/", "http://c.example/"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), expected);
        }
        assert!(base.join("keys").is_err());
    }

    #[test]
    fn a_query_is_not_shown() {
        let url = Url::parse("https://a.example/k?code=secret").unwrap();
        assert_eq!(
            format!("{url} {url:?}"),
            "https://a.example/k?... https://a.example/k?..."
        );
    }
}

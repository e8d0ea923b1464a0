//! One request, one connection, one deadline. Fetches are rare; a pool would only keep sockets that went stale.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::guard::{Guard, Refusal};
use super::tls::{self, TlsError};
use super::url::{Scheme, Url, UrlError};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 3;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// Header lines of an answer.
const MAX_HEADERS: usize = 100;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name has no address, or the resolver failed.
    #[error("{host}: cannot be resolved: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The address must not be dialled.
    #[error("{url}: {address} is refused: {refusal}")]
    Refused {
        /// Where to.
        url: Url,
        /// What it was resolved to.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// Nobody answers, or not over TLS as who they should be.
    #[error("{url}: cannot connect: {reason}")]
    Connect {
        /// Where to.
        url: Url,
        /// Why.
        reason: String,
    },
    /// The answer is no HTTP, or broke off.
    #[error("{url}: {reason}")]
    Protocol {
        /// Where from.
        url: Url,
        /// What is wrong.
        reason: String,
    },
    /// A redirect that is not followed.
    #[error("{url}: the redirect is not followed: {reason}")]
    Redirect {
        /// Who redirected.
        url: Url,
        /// Why.
        reason: String,
    },
    /// More than was asked for.
    #[error("{url}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// Where from.
        url: Url,
        /// The limit.
        limit: usize,
    },
    /// Too late.
    #[error("{url}: no complete answer within {timeout:?}")]
    Timeout {
        /// Where from.
        url: Url,
        /// How long was waited.
        timeout: Duration,
    },
}

impl FetchError {
    /// A stable word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Refused { .. } => "address_refused",
            Self::Connect { .. } => "connect",
            Self::Protocol { .. } => "protocol",
            Self::Redirect { .. } => "redirect",
            Self::TooLarge { .. } => "too_large",
            Self::Timeout { .. } => "timeout",
        }
    }
}

/// What holds for every request.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which addresses may be dialled.
    pub guard: Guard,
    /// Roots to trust instead of the public ones, PEM.
    pub roots: Option<Vec<u8>>,
}

/// One request.
#[derive(Clone)]
pub struct Fetch {
    /// Where to.
    pub url: Url,
    /// `GET` or `POST`.
    pub method: Method,
    /// Besides `Host`, `Accept`, `User-Agent` and the length.
    pub headers: HeaderMap,
    /// Body; empty for a `GET`.
    pub body: Bytes,
    /// Largest body of the answer, bytes.
    pub limit: usize,
    /// From the look-up of the name to the last byte.
    pub timeout: Duration,
    /// Instead of the fetcher's own, for a server with other roots or a client certificate.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Fetch {
    /// A `GET` of at most 1 MiB within 10 s.
    pub fn get(url: Url) -> Self {
        Self {
            url,
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            limit: 1 << 20,
            timeout: Duration::from_secs(10),
            tls: None,
        }
    }

    /// As [`Self::get`], a `POST` of this body.
    pub fn post(url: Url, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut fetch = Self::get(url);
        fetch.method = Method::POST;
        fetch.body = body.into();
        fetch
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        fetch
    }

    /// True if another server must not see what is in it.
    fn is_confidential(&self) -> bool {
        self.method != Method::GET || self.headers.contains_key(header::AUTHORIZATION)
    }
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Fetched {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Who answered, after redirects.
    pub url: Url,
}

/// Makes requests.
pub struct Fetcher {
    guard: Guard,
    tls: Arc<ClientConfig>,
}

impl Fetcher {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// The given roots cannot be used.
    pub fn new(settings: Settings) -> Result<Self, TlsError> {
        Ok(Self {
            guard: settings.guard,
            tls: tls::client_config(settings.roots.as_deref())?,
        })
    }

    /// Asks, follows at most three redirects, and reads the whole answer.
    ///
    /// A request with a body or credentials follows no redirect, and none leads from `https` to `http`.
    ///
    /// # Errors
    /// Why there is no answer. A status of failure is an answer.
    pub async fn fetch(&self, fetch: &Fetch) -> Result<Fetched, FetchError> {
        tokio::time::timeout(fetch.timeout, self.follow(fetch))
            .await
            .unwrap_or_else(|_| {
                Err(FetchError::Timeout {
                    url: fetch.url.clone(),
                    timeout: fetch.timeout,
                })
            })
    }

    async fn follow(&self, fetch: &Fetch) -> Result<Fetched, FetchError> {
        let mut url = fetch.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let fetched = self.once(fetch, &url).await?;
            if !matches!(fetched.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(fetched);
            }
            url = next(fetch, &url, &fetched.headers)?;
        }
        Err(FetchError::Redirect {
            url,
            reason: format!("it is the {}th", MAX_REDIRECTS + 1),
        })
    }

    async fn once(&self, fetch: &Fetch, url: &Url) -> Result<Fetched, FetchError> {
        let stream = self.connect(url).await?;
        let failed = |reason: String| FetchError::Connect {
            url: url.clone(),
            reason,
        };
        if url.scheme() == Scheme::Http {
            return exchange(stream, fetch, url).await;
        }
        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|_| failed("the host is no name that a certificate can have".into()))?;
        let tls = fetch.tls.as_ref().unwrap_or(&self.tls);
        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(name, stream)
            .await
            .map_err(|e| failed(format!("TLS: {e}")))?;
        exchange(stream, fetch, url).await
    }

    /// Resolves, judges every address that would be dialled, and dials the first that answers.
    async fn connect(&self, url: &Url) -> Result<TcpStream, FetchError> {
        let unresolved = |reason: String| FetchError::Resolve {
            host: url.host().to_owned(),
            reason,
        };
        let addresses = tokio::net::lookup_host((url.host(), url.port()))
            .await
            .map_err(|e| unresolved(e.to_string()))?;
        let mut last = None;
        for address in addresses.take(MAX_ADDRESSES) {
            if let Err(refusal) = self.guard.judge(url.scheme(), address) {
                last = Some(FetchError::Refused {
                    url: url.clone(),
                    address,
                    refusal,
                });
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    last = Some(FetchError::Connect {
                        url: url.clone(),
                        reason: format!("{address}: {error}"),
                    });
                }
            }
        }
        Err(last.unwrap_or_else(|| unresolved("it has no address".into())))
    }
}

/// Where a redirect leads.
fn next(fetch: &Fetch, url: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
    let refuse = |reason: String| FetchError::Redirect {
        url: url.clone(),
        reason,
    };
    if fetch.is_confidential() {
        return Err(refuse(
            "the request holds what another server must not see".into(),
        ));
    }
    let location = headers
        .get(header::LOCATION)
        .and_then(|v| v.to_str().ok())
        .ok_or_else(|| refuse("it does not say where to".into()))?;
    let next = url
        .join(location)
        .map_err(|e: UrlError| refuse(e.to_string()))?;
    if url.scheme() == Scheme::Https && next.scheme() == Scheme::Http {
        return Err(refuse("it leads from https to http".into()));
    }
    Ok(next)
}

/// Sends the request and reads the answer, on a connection of its own.
async fn exchange<S>(stream: S, fetch: &Fetch, url: &Url) -> Result<Fetched, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: &dyn std::fmt::Display| FetchError::Protocol {
        url: url.clone(),
        reason: error.to_string(),
    };
    let request = request(fetch, url).map_err(|e| broken(&e))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|e| broken(&e))?;
    let mut connection = std::pin::pin!(connection);
    let asked = async {
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let (head, mut body) = response.into_parts();
        refuse_encoding(&head.headers).map_err(|e| broken(&e))?;
        let too_large = || FetchError::TooLarge {
            url: url.clone(),
            limit: fetch.limit,
        };
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() else {
                continue;
            };
            if data.len() > fetch.limit - read.len() {
                return Err(too_large());
            }
            read.extend_from_slice(&data);
        }
        Ok(Fetched {
            status: head.status,
            headers: head.headers,
            body: read.freeze(),
            url: url.clone(),
        })
    };
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        result = &mut asked => result,
        // The connection is done when the answer was read, perhaps before the answer was looked at.
        _ = &mut connection => asked.await,
    }
}

fn request(fetch: &Fetch, url: &Url) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .method(fetch.method.clone())
        .uri(url.target())
        .body(Full::new(fetch.body.clone()))?;
    let headers = request.headers_mut();
    headers.extend(fetch.headers.clone());
    headers.insert(header::HOST, HeaderValue::try_from(url.authority())?);
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("postern-control-api/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers
        .entry(header::ACCEPT)
        .or_insert(HeaderValue::from_static("application/json"));
    Ok(request)
}

/// Nothing else was asked for; a compressed answer could be a thousand times its size.
fn refuse_encoding(headers: &HeaderMap) -> Result<(), &'static str> {
    let is_plain = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(is_plain)
    {
        true => Ok(()),
        false => Err("the answer is compressed, which was not asked for"),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

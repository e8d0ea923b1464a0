//! Which request gets which answer. Pure: no sockets.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::readiness::Readiness;
use super::{dump, metrics};
use crate::control::{Clock, ControlStatus};
use crate::snapshot::SharedSnapshot;
use crate::telemetry::Metrics;
use crate::worker::crew::Crew;

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Everything; for this machine alone.
    Admin,
    /// `/metrics`.
    Metrics,
    /// `/readyz` and `/livez`, without details.
    Readiness,
}

impl fmt::Display for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Readiness => "readiness",
        })
    }
}

/// What the answers are made of.
pub struct AdminState {
    /// Is it ready, and why not.
    pub readiness: Arc<Readiness>,
    /// What the control thread knows.
    pub status: Arc<ControlStatus>,
    /// The snapshot in force.
    pub snapshot: SharedSnapshot,
    /// All metrics.
    pub metrics: Metrics,
    /// What each worker serves.
    pub crew: Crew,
    /// For spans of time in words.
    pub clock: Arc<dyn Clock>,
    /// Cancelled by `POST /drain`.
    pub drain: CancellationToken,
}

type Answer = Response<Full<Bytes>>;

/// A path, where it is served, by which method.
const ROUTES: &[(&str, Method, &[Surface])] = &[
    (
        "/readyz",
        Method::GET,
        &[Surface::Admin, Surface::Readiness],
    ),
    ("/livez", Method::GET, &[Surface::Admin, Surface::Readiness]),
    ("/metrics", Method::GET, &[Surface::Admin, Surface::Metrics]),
    ("/config_dump", Method::GET, &[Surface::Admin]),
    ("/version", Method::GET, &[Surface::Admin]),
    ("/certificates/rotate", Method::POST, &[Surface::Admin]),
    ("/drain", Method::POST, &[Surface::Admin]),
];

/// Answers one request.
pub fn respond<B>(state: &AdminState, surface: Surface, request: &Request<B>) -> Answer {
    if surface == Surface::Admin
        && let Err(reason) = came_from_here(request)
    {
        return problem(StatusCode::FORBIDDEN, reason);
    }
    let path = request.uri().path();
    let Some((_, method, _)) = ROUTES
        .iter()
        .find(|(known, _, surfaces)| *known == path && surfaces.contains(&surface))
    else {
        let known: Vec<_> = ROUTES
            .iter()
            .filter(|(_, _, s)| s.contains(&surface))
            .map(|(p, _, _)| *p)
            .collect();
        return problem(
            StatusCode::NOT_FOUND,
            &format!("there is: {}", known.join(", ")),
        );
    };
    let head = *method == Method::GET && request.method() == Method::HEAD;
    if request.method() != method && !head {
        let mut answer = problem(
            StatusCode::METHOD_NOT_ALLOWED,
            &format!("{path} takes {method}"),
        );
        if let Ok(value) = HeaderValue::from_str(method.as_str()) {
            answer.headers_mut().insert(ALLOW, value);
        }
        return answer;
    }
    match path {
        "/readyz" => ready(state, surface),
        "/livez" => json_answer(StatusCode::OK, &json!({"live": true})),
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|v| v.to_str().ok());
            let (content_type, page) = metrics::page(state, accept);
            answer(StatusCode::OK, content_type, page)
        }
        "/config_dump" => {
            let mut all = dump::snapshot(&state.snapshot.load());
            all["control"] = view(state);
            json_answer(StatusCode::OK, &all)
        }
        "/version" => json_answer(
            StatusCode::OK,
            &json!({"program": "sidecar", "version": env!("CARGO_PKG_VERSION")}),
        ),
        "/certificates/rotate" => {
            state.status.ask_rotation();
            json_answer(StatusCode::ACCEPTED, &json!({"rotating": true}))
        }
        _ => {
            tracing::info!("drain asked for over the admin port");
            state.drain.cancel();
            json_answer(StatusCode::ACCEPTED, &json!({"draining": true}))
        }
    }
}

fn ready(state: &AdminState, surface: Surface) -> Answer {
    let report = state.readiness.report();
    let mut body = json!({"ready": report.ready, "reasons": report.reasons});
    if surface == Surface::Admin {
        body["details"] = json!({"conditions": report.conditions, "control": view(state)});
    }
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_answer(status, &body)
}

fn view(state: &AdminState) -> Value {
    let mut value = serde_json::to_value(state.status.view()).unwrap_or_default();
    value["degraded"] = json!(state.status.degraded(state.clock.now()));
    value
}

/// Refuses what a browser was made to send: by a foreign page (it carries `Origin`), or under a name that a foreign DNS
/// server pointed at this machine.
fn came_from_here<B>(request: &Request<B>) -> Result<(), &'static str> {
    if request.headers().contains_key(ORIGIN) {
        return Err("requests from web pages are refused");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("exactly one Host header is needed");
    };
    let named = host.to_str().ok().is_some_and(is_local_name);
    let absolute = request
        .uri()
        .authority()
        .is_none_or(|a| is_local_name(a.as_str()));
    if named && absolute {
        Ok(())
    } else {
        Err("the Host must be localhost, 127.0.0.1 or [::1]")
    }
}

fn is_local_name(host: &str) -> bool {
    let rest = ["localhost", "127.0.0.1", "[::1]"].iter().find_map(|name| {
        host.get(..name.len())
            .filter(|h| h.eq_ignore_ascii_case(name))
            .map(|_| &host[name.len()..])
    });
    match rest {
        Some("") => true,
        Some(port) => port
            .strip_prefix(':')
            .is_some_and(|p| p.parse::<u16>().is_ok()),
        None => false,
    }
}

fn problem(status: StatusCode, detail: &str) -> Answer {
    json_answer(
        status,
        &json!({"status": status.as_u16(), "detail": detail}),
    )
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut text = body.to_string();
    text.push('\n');
    answer(status, "application/json", text)
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::control::clock::testing::ManualClock;
    use crate::snapshot::Snapshot;
    use crate::worker::crew;
    use arc_swap::ArcSwap;
    use mesh_auth::TrustDomain;

    pub(crate) fn state() -> Arc<AdminState> {
        let domain = TrustDomain::new("demo.test").expect("domain");
        Arc::new(AdminState {
            readiness: Arc::new(Readiness::new(&["snapshot"])),
            status: Arc::default(),
            snapshot: Arc::new(ArcSwap::from_pointee(Snapshot::empty("demo/web-1", domain))),
            metrics: Metrics::new(10),
            crew: crew::form(2, 1, crew::HandOver::On).0,
            clock: Arc::new(ManualClock::at(0)),
            drain: CancellationToken::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::testing::state;
    use super::*;
    use http_body_util::BodyExt;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let builder = Request::builder().method(method).uri(path);
        headers
            .iter()
            .fold(builder, |b, (k, v)| b.header(*k, *v))
            .body(())
            .expect("request")
    }

    async fn body(answer: Answer) -> Value {
        let bytes = answer.into_body().collect().await.expect("body").to_bytes();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn each_surface_serves_its_own_paths_and_methods_only() {
        use Surface::{Admin, Metrics, Readiness};
        let cases = [
            (Admin, "GET", "/livez", 200),
            (Admin, "HEAD", "/livez", 200),
            (Admin, "GET", "/readyz", 503),
            (Admin, "GET", "/metrics", 200),
            (Admin, "GET", "/config_dump", 200),
            (Admin, "GET", "/version", 200),
            (Admin, "GET", "/drain", 405),
            (Admin, "POST", "/certificates/rotate", 202),
            (Admin, "GET", "/certificates/rotate", 405),
            (Metrics, "POST", "/certificates/rotate", 404),
            (Admin, "DELETE", "/metrics", 405),
            (Admin, "GET", "/../etc/passwd", 404),
            (Admin, "GET", "/", 404),
            (Metrics, "GET", "/metrics", 200),
            (Metrics, "GET", "/config_dump", 404),
            (Metrics, "GET", "/readyz", 404),
            (Metrics, "POST", "/drain", 404),
            (Readiness, "GET", "/readyz", 503),
            (Readiness, "GET", "/livez", 200),
            (Readiness, "GET", "/metrics", 404),
            (Readiness, "GET", "/config_dump", 404),
            (Readiness, "POST", "/drain", 404),
        ];
        for (surface, method, path, status) in cases {
            let answer = respond(
                &state(),
                surface,
                &request(method, path, &[("host", "localhost")]),
            );
            assert_eq!(answer.status(), status, "{surface} {method} {path}");
        }
    }

    #[test]
    fn the_admin_surface_answers_only_to_local_names_and_no_web_page() {
        let cases: &[(&[(&str, &str)], u16)] = &[
            (&[("host", "localhost:15000")], 200),
            (&[("host", "LOCALHOST")], 200),
            (&[("host", "127.0.0.1:1")], 200),
            (&[("host", "[::1]:15000")], 200),
            (&[], 403),
            (&[("host", "evil.example")], 403),
            (&[("host", "localhost.evil.example")], 403),
            (&[("host", "127.0.0.1.evil.example:15000")], 403),
            (&[("host", "localhost:99999")], 403),
            (&[("host", "localhost"), ("host", "evil.example")], 403),
            (
                &[("host", "localhost"), ("origin", "http://evil.example")],
                403,
            ),
            (&[("host", "localhost"), ("origin", "null")], 403),
        ];
        for (headers, status) in cases {
            let answer = respond(&state(), Surface::Admin, &request("GET", "/livez", headers));
            assert_eq!(answer.status(), *status, "{headers:?}");
        }
        let absolute = request("GET", "http://evil.example/livez", &[("host", "localhost")]);
        assert_eq!(respond(&state(), Surface::Admin, &absolute).status(), 403);
        let probe = request("GET", "/livez", &[("host", "10.0.0.2:15021")]);
        assert_eq!(
            respond(&state(), Surface::Readiness, &probe).status(),
            200,
            "a kubelet uses the pod's address"
        );
    }

    #[tokio::test]
    async fn readiness_says_why_and_keeps_details_for_the_admin_surface() {
        let state = state();
        let ask = |surface| {
            respond(
                &state,
                surface,
                &request("GET", "/readyz", &[("host", "localhost")]),
            )
        };
        let outside = body(ask(Surface::Readiness)).await;
        assert_eq!(
            outside,
            json!({"ready": false, "reasons": ["snapshot: not yet"]})
        );
        let inside = body(ask(Surface::Admin)).await;
        assert_eq!(inside["details"]["conditions"]["snapshot"], "not yet");
        assert_eq!(
            inside["details"]["control"]["stream"],
            "waiting_for_certificate"
        );
        state.readiness.set("snapshot", Ok(()));
        let answer = ask(Surface::Readiness);
        assert_eq!(answer.status(), 200);
        assert_eq!(body(answer).await["ready"], true);
    }

    #[test]
    fn a_posted_drain_begins_the_drain() {
        let state = state();
        let answer = respond(
            &state,
            Surface::Admin,
            &request("POST", "/drain", &[("host", "localhost")]),
        );
        assert_eq!(answer.status(), 202);
        assert!(state.drain.is_cancelled());
    }
}

//! What the control thread knows about itself, for readiness, metrics and people.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_auth::svid::describe_skew;
use serde::Serialize;
use tokio::sync::Notify;

use super::clock::{rfc3339, span_of_seconds};
use super::xds::Rejection;

/// Seconds of skew that are worth a remark: certificates are backdated by five minutes.
const WORRYING_SKEW: i64 = 60;

/// State of the stream to the control API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Not tried yet: there is no certificate to show.
    #[default]
    WaitingForCertificate,
    /// Being opened.
    Connecting,
    /// Open.
    Connected,
    /// Lost or refused; tried again after a while.
    Unreachable,
}

/// The certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// The identity.
    pub spiffe_id: String,
    /// Its serial number, hexadecimal: what `meshctl revoke serial` takes.
    pub serial: String,
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    /// When it will be renewed, Unix seconds.
    pub renew_at: i64,
}

/// Everything at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct View {
    /// The stream.
    pub stream: Stream,
    /// Since when the control API cannot be reached, Unix seconds.
    pub unreachable_since: Option<i64>,
    /// When the control API was heard last, Unix seconds.
    pub last_contact: Option<i64>,
    /// Resource kinds that were not answered since the start.
    pub waiting_for: Vec<&'static str>,
    /// Store revision of the resources in force.
    pub held_revision: u64,
    /// When the state that was read from disk had been written, while it is still what is served; Unix seconds.
    pub serving_state_of: Option<i64>,
    /// Resources refused and not held in that version.
    pub rejected: Vec<Rejection>,
    /// The certificate.
    pub certificate: Option<Certificate>,
    /// Why the last certificate request failed; `None` after a success.
    pub certificate_error: Option<String>,
    /// Seconds that this clock is ahead of the control API's, as measured at the last certificate request.
    pub clock_skew: Option<i64>,
    /// Why the stream was lost last.
    pub stream_error: Option<String>,
    /// Why the last good state could not be written; `None` after a success.
    pub state_error: Option<String>,
}

/// Shared, always current.
#[derive(Debug, Default)]
pub struct ControlStatus {
    view: Mutex<View>,
    rotation: Notify,
}

impl ControlStatus {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of everything.
    pub fn view(&self) -> View {
        self.lock().clone()
    }

    /// Changes it. Poisoning is ignored: the view is for people, no decision hangs on it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.lock());
    }

    /// Asks for another certificate now.
    pub fn ask_rotation(&self) {
        self.rotation.notify_one();
    }

    /// Resolves when another certificate was asked for.
    pub(crate) async fn rotation_asked(&self) {
        self.rotation.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sentence on what is degraded at `now` (Unix seconds); `None` when all is well.
    pub fn degraded(&self, now: i64) -> Option<String> {
        let view = self.lock();
        let mut parts = Vec::new();
        if let Some(since) = view.unreachable_since {
            let mut part = format!("control unreachable since {}", rfc3339(since));
            if let Some(certificate) = &view.certificate {
                let left = span_of_seconds(certificate.not_after - now);
                part.push_str(&format!(", certificate expires in {left}"));
            }
            if let Some(error) = &view.stream_error {
                part.push_str(&format!(" ({error})"));
            }
            parts.push(part);
        }
        if let Some(written) = view.serving_state_of {
            parts.push(format!("serving the state written at {}", rfc3339(written)));
        }
        if let (Some(certificate), Some(error)) = (&view.certificate, &view.certificate_error) {
            let left = span_of_seconds(certificate.not_after - now);
            parts.push(format!(
                "certificate renewal fails, it expires in {left} ({error})"
            ));
        }
        if let Some(skew) = view.clock_skew.filter(|s| s.abs() >= WORRYING_SKEW) {
            parts.push(describe_skew(skew));
        }
        if !view.rejected.is_empty() {
            parts.push(format!("{} resource(s) rejected", view.rejected.len()));
        }
        if let Some(error) = &view.state_error {
            parts.push(format!("the last good state cannot be written ({error})"));
        }
        (!parts.is_empty()).then(|| format!("degraded: {}", parts.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_degraded_is_said_in_words() {
        let status = ControlStatus::new();
        assert_eq!(status.degraded(0), None);
        status.update(|view| {
            view.unreachable_since = Some(0);
            view.stream_error = Some("connection refused".into());
            view.certificate = Some(Certificate {
                spiffe_id: "spiffe://demo.test/ns/demo/sa/web".into(),
                serial: "5e0f".into(),
                not_before: 0,
                not_after: 7_260,
                renew_at: 3_600,
            });
        });
        assert_eq!(
            status.degraded(60).as_deref(),
            Some(
                "degraded: control unreachable since 1970-01-01T00:00:00Z, certificate expires in 2 h 0 min (connection refused)"
            )
        );
    }
}

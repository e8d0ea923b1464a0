//! What a response is answered with: what was refused and why, and how long a server that repeats itself waits.

use std::time::Duration;

use mesh_proto::ResourceType;
use mesh_proto::discovery::DeltaDiscoveryRequest;
use mesh_proto::google::rpc::Status;
use serde::Serialize;

/// Names listed in one NACK.
const MAX_NACK_ENTRIES: usize = 1_000;
/// Longest reason in a NACK; policies can be long and errors quote them.
const MAX_REASON: usize = 512;
/// gRPC code of a NACK: `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// The answer to the same rejected version again waits this long, doubling with every repetition ...
const REPEAT_BASE: Duration = Duration::from_secs(1);
/// ... up to this: a server that re-sends what was rejected does not drive a loop.
const REPEAT_CAP: Duration = Duration::from_secs(30);

/// A version of a resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Resource kind.
    pub kind: &'static str,
    /// Resource name.
    pub name: String,
    /// The version refused.
    pub version: String,
    /// Why.
    pub reason: String,
    /// How often the same version came again.
    #[serde(skip)]
    pub repeats: u32,
}

/// What to do after one response.
#[derive(Debug)]
pub struct Answer {
    /// The ACK or NACK.
    pub request: DeltaDiscoveryRequest,
    /// How long to wait before it is sent; nothing but for repeated rejections.
    pub delay: Duration,
    /// What was refused.
    pub rejected: Vec<Rejection>,
    /// Something held changed.
    pub changed: bool,
}

pub(super) fn rejection(
    kind: ResourceType,
    name: String,
    version: String,
    reason: String,
) -> Rejection {
    rejection_of(kind.kind(), name, version, reason)
}

pub(super) fn rejection_of(
    kind: &'static str,
    name: String,
    version: String,
    mut reason: String,
) -> Rejection {
    if reason.len() > MAX_REASON {
        let mut end = MAX_REASON;
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        reason.push_str(" ...");
    }
    Rejection {
        kind,
        name,
        version,
        reason,
        repeats: 0,
    }
}

#[derive(Serialize)]
struct NackEntry<'a> {
    name: &'a str,
    reason: &'a str,
}

pub(super) fn answer(
    type_url: &str,
    nonce: String,
    rejected: Vec<Rejection>,
    changed: bool,
) -> Answer {
    let error_detail = (!rejected.is_empty()).then(|| {
        let entries: Vec<_> = rejected
            .iter()
            .take(MAX_NACK_ENTRIES)
            .map(|r| NackEntry {
                name: &r.name,
                reason: &r.reason,
            })
            .collect();
        Status {
            code: INVALID_ARGUMENT,
            // Strings alone always serialize; an empty message would still be a NACK.
            message: serde_json::to_string(&entries).unwrap_or_default(),
            ..Status::default()
        }
    });
    let least_repeated = rejected.iter().map(|r| r.repeats).min().unwrap_or(0);
    let delay = if changed || least_repeated == 0 {
        Duration::ZERO
    } else {
        let factor = 1u32.checked_shl(least_repeated - 1).unwrap_or(u32::MAX);
        REPEAT_BASE.saturating_mul(factor).min(REPEAT_CAP)
    };
    Answer {
        request: DeltaDiscoveryRequest {
            type_url: type_url.into(),
            response_nonce: nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        },
        delay,
        rejected,
        changed,
    }
}

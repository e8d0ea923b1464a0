//! Which sidecars are connected and what each of them holds.

use std::collections::BTreeMap;
use std::sync::Mutex;

use mesh_proto::admin::{Nack, SidecarStatus};

/// The sidecars seen since the start, by workload.
#[derive(Debug, Default)]
pub struct Tracker {
    sidecars: Mutex<BTreeMap<String, (u64, SidecarStatus)>>,
}

impl Tracker {
    /// A stream opened; `stream` identifies it among those of the same workload.
    pub fn connected(&self, stream: u64, status: SidecarStatus) {
        if let Ok(mut sidecars) = self.sidecars.lock() {
            sidecars.insert(status.workload.clone(), (stream, status));
        }
    }

    /// What a stream acknowledged or rejected changed.
    pub fn progressed(&self, stream: u64, workload: &str, acked_revision: u64, nacks: Vec<Nack>) {
        self.update(stream, workload, |status| {
            status.acked_revision = acked_revision;
            status.nacks = nacks;
        });
    }

    /// A stream ended; a newer one of the same workload is left alone.
    pub fn disconnected(&self, stream: u64, workload: &str, now: i64) {
        self.update(stream, workload, |status| {
            status.connected = false;
            status.since = now;
        });
    }

    fn update(&self, stream: u64, workload: &str, change: impl FnOnce(&mut SidecarStatus)) {
        if let Ok(mut sidecars) = self.sidecars.lock() {
            if let Some((current, status)) = sidecars.get_mut(workload) {
                if *current == stream {
                    change(status);
                }
            }
        }
    }

    /// Every sidecar.
    pub fn all(&self) -> Vec<SidecarStatus> {
        self.sidecars
            .lock()
            .map(|s| s.values().map(|(_, status)| status.clone()).collect())
            .unwrap_or_default()
    }
}

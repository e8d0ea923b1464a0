//! The last good resources, on disk: what a sidecar starts from while the control API is away.
//!
//! Contains no secret and no identity. A file that is damaged, or that belongs to another workload, is moved aside and
//! named in the log; the sidecar goes on without it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mesh_proto::ResourceType;
use prost::Message;

use super::clock::rfc3339;
use super::sealed_file::{self, Kind, SealedError};
use super::xds::{Export, Held};
use crate::lookups::Lookup;

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "resources.state";

const KIND: Kind = Kind {
    magic: *b"PSTNRES\n",
    version: 1,
};

#[derive(Clone, PartialEq, ::prost::Message)]
struct StoredState {
    #[prost(string, tag = "1")]
    workload: String,
    #[prost(string, tag = "2")]
    trust_domain: String,
    #[prost(int64, tag = "3")]
    written_at: i64,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(message, repeated, tag = "5")]
    resources: Vec<StoredResource>,
    #[prost(btree_map = "string, uint64", tag = "6")]
    sequences: BTreeMap<String, u64>,
    /// Services and workloads are those of `used` only.
    #[prost(bool, tag = "7")]
    by_name: bool,
    /// Destinations: a host, or `/<ip>`.
    #[prost(string, repeated, tag = "8")]
    used: Vec<String>,
}

#[derive(Clone, PartialEq, ::prost::Message)]
struct StoredResource {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "bytes", tag = "4")]
    value: Bytes,
}

/// Where the state of one workload is kept.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
    workload: String,
    trust_domain: String,
}

/// What a file held.
#[derive(Debug)]
pub struct Loaded {
    /// The resources.
    pub export: Export,
    /// When it was written, Unix seconds.
    pub written_at: i64,
}

impl StateFile {
    /// The state file in `directory`.
    pub fn new(directory: &Path, workload: &str, trust_domain: &str) -> Self {
        Self {
            path: directory.join(FILE_NAME),
            workload: workload.to_owned(),
            trust_domain: trust_domain.to_owned(),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `export`, atomically and durably. Blocks on the disk.
    ///
    /// # Errors
    /// Names the file and the step that failed; the previous content is then still in place.
    pub fn save(&self, export: &Export, now: i64) -> Result<(), SealedError> {
        let resources = export
            .resources
            .iter()
            .map(|(kind, name, held)| StoredResource {
                type_url: kind.type_url().into(),
                name: name.clone(),
                version: held.version.clone(),
                value: held.value.clone(),
            });
        let used = export.used.iter().flatten();
        let stored = StoredState {
            workload: self.workload.clone(),
            trust_domain: self.trust_domain.clone(),
            written_at: now,
            revision: export.revision,
            resources: resources.collect(),
            sequences: export.sequences.clone(),
            by_name: export.used.is_some(),
            used: used.map(Lookup::to_string).collect(),
        };
        sealed_file::write(&self.path, KIND, &stored.encode_to_vec())
    }

    /// Reads what was saved last; `None` when there is nothing. A file that cannot be used is moved aside.
    pub fn load(&self) -> Option<Loaded> {
        match self.read() {
            Ok(loaded) => loaded,
            Err(error) => {
                let aside = match &error {
                    SealedError::Corrupt { path, .. } => sealed_file::set_aside(path),
                    SealedError::Io { .. } => Ok(self.path.clone()),
                };
                match aside {
                    Ok(aside) => tracing::error!(
                        %error, kept_as = %aside.display(),
                        "the state file cannot be used; starting without the last good state"
                    ),
                    Err(second) => {
                        tracing::error!(%error, %second, "the state file cannot be used");
                    }
                }
                None
            }
        }
    }

    fn read(&self) -> Result<Option<Loaded>, SealedError> {
        let corrupt = |reason: String| SealedError::Corrupt {
            path: self.path.clone(),
            reason,
        };
        let Some(payload) = sealed_file::read(&self.path, KIND)? else {
            return Ok(None);
        };
        let stored = StoredState::decode(payload.as_slice()).map_err(|e| corrupt(e.to_string()))?;
        if stored.workload != self.workload || stored.trust_domain != self.trust_domain {
            return Err(corrupt(format!(
                "belongs to workload '{}' of trust domain '{}'",
                stored.workload, stored.trust_domain
            )));
        }
        let lookup = |text: &String| {
            Lookup::parse(text).ok_or_else(|| corrupt(format!("'{text}' is no destination")))
        };
        let used = stored.used.iter().map(lookup).collect::<Result<_, _>>()?;
        let mut resources = Vec::with_capacity(stored.resources.len());
        for resource in stored.resources {
            let kind = ResourceType::from_type_url(&resource.type_url)
                .ok_or_else(|| corrupt(format!("unknown resource type '{}'", resource.type_url)))?;
            let held = Held {
                version: resource.version,
                value: resource.value,
            };
            resources.push((kind, resource.name, held));
        }
        tracing::info!(
            file = %self.path.display(), resources = resources.len(), revision = stored.revision,
            written_at = rfc3339(stored.written_at), "last good state read"
        );
        Ok(Some(Loaded {
            written_at: stored.written_at,
            export: Export {
                used: stored.by_name.then_some(used),
                resources,
                sequences: stored.sequences,
                revision: stored.revision,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn export() -> Export {
        let resource = |kind, name: &str, size: usize| {
            let held = Held {
                version: "v1".into(),
                value: Bytes::from(vec![7; size]),
            };
            (kind, name.to_owned(), held)
        };
        Export {
            used: Some(vec![Lookup::parse("/10.0.0.1").expect("a lookup")]),
            resources: vec![
                resource(ResourceType::MeshDefaults, "default", 10),
                resource(ResourceType::Workload, "demo/web-1", 3_000),
            ],
            sequences: [("demo.test".to_owned(), 4)].into(),
            revision: 12,
        }
    }

    #[test]
    fn the_state_comes_back_as_it_was() {
        let dir = tempfile::tempdir().expect("dir");
        let file = StateFile::new(dir.path(), "demo/web-1", "demo.test");
        assert!(file.load().is_none());
        file.save(&export(), 1_000).expect("save");
        let loaded = file.load().expect("state");
        assert_eq!(loaded.export, export());
        assert_eq!(loaded.written_at, 1_000);
    }

    #[test]
    fn damage_at_any_place_is_noticed_and_the_file_is_kept_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let file = StateFile::new(dir.path(), "demo/web-1", "demo.test");
        file.save(&export(), 1_000).expect("save");
        let good = fs::read(file.path()).expect("bytes");
        for offset in (0..good.len()).step_by(41).chain([good.len() - 1]) {
            let mut flipped = good.clone();
            flipped[offset] ^= 0x10;
            for bad in [flipped, good[..offset].to_vec()] {
                fs::write(file.path(), &bad).expect("write");
                assert!(file.load().is_none(), "offset {offset}");
                assert!(!file.path().exists());
                let aside = dir.path().join("resources.state.corrupt");
                assert_eq!(fs::read(aside).expect("kept"), bad);
            }
        }
        file.save(&export(), 1_001)
            .expect("a new one can be written");
        assert!(file.load().is_some());
    }

    #[test]
    fn the_state_of_another_workload_is_not_taken_over() {
        let dir = tempfile::tempdir().expect("dir");
        StateFile::new(dir.path(), "demo/web-1", "demo.test")
            .save(&export(), 1)
            .expect("save");
        assert!(
            StateFile::new(dir.path(), "demo/other", "demo.test")
                .load()
                .is_none()
        );
        StateFile::new(dir.path(), "demo/web-1", "demo.test")
            .save(&export(), 1)
            .expect("save");
        assert!(
            StateFile::new(dir.path(), "demo/web-1", "other.test")
                .load()
                .is_none()
        );
    }
}

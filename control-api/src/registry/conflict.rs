//! Concurrent edits: who started from an older revision is told, not overwritten.

use mesh_manifest::Document;

use super::{Key, Outcome, Registry, RegistryError, World, record_key};
use crate::store::documents;

/// The revision that an edit started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Not said: the edit takes what is there, whatever it is.
    Any,
    /// This one.
    Revision(u64),
}

impl Base {
    /// As a request says it; 0: nothing.
    pub fn of(revision: u64) -> Self {
        match revision {
            0 => Self::Any,
            revision => Self::Revision(revision),
        }
    }
}

impl Registry {
    /// Checks that none of the documents was changed after what its edit started from, and takes
    /// `metadata.resourceVersion` off them. What is stored already conflicts with nothing.
    pub(super) fn check_bases(
        &self,
        world: &World,
        documents: &mut [Document],
        base: Base,
    ) -> Result<(), RegistryError> {
        if let Base::Revision(base) = base
            && base > world.revision
        {
            return Err(RegistryError::FutureBase {
                subject: "if-revision".to_owned(),
                base,
                latest: world.revision,
            });
        }
        for document in documents {
            let own = document.metadata.resource_version.take();
            if Outcome::of(world, document) == Outcome::Unchanged {
                continue;
            }
            let key = document.key();
            self.check_base(world, &key, base)?;
            let Some(version) = own else { continue };
            if version <= world.revision {
                self.check_base(world, &key, Base::Revision(version))?;
            } else if document.api_version == mesh_manifest::API_VERSION {
                return Err(RegistryError::FutureBase {
                    subject: format!("{}: metadata.resourceVersion", subject(&key)),
                    base: version,
                    latest: world.revision,
                });
            }
            // Else it was written by another store: a document of Kubernetes brings the number of its own.
        }
        Ok(())
    }

    /// Checks that a document was not changed after `base`.
    pub(super) fn check_base(
        &self,
        world: &World,
        key: &Key,
        base: Base,
    ) -> Result<(), RegistryError> {
        let Base::Revision(base) = base else {
            return Ok(());
        };
        let conflict = |what, changed, author: &str| {
            Err(RegistryError::Conflict {
                subject: subject(key),
                what,
                changed,
                author: author.to_owned(),
                base,
            })
        };
        if let Some(stored) = world.documents.get(key) {
            if stored.revision > base {
                return conflict("changed", stored.revision, &stored.author);
            }
            return Ok(());
        }
        let record = record_key(key);
        let tombstone = self
            .store
            .read(|read| documents::tombstone(read, &record))?;
        match tombstone {
            Some(gone) if gone.revision > base => conflict("deleted", gone.revision, &gone.author),
            _ => Ok(()),
        }
    }
}

/// A document, as messages name it.
fn subject((kind, namespace, name): &Key) -> String {
    format!("{kind} {namespace}/{name}")
}

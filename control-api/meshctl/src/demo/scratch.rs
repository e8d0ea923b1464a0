//! The demo's directories: one for everything, mode 0700; one in memory for private keys, where the machine has such a place.
//! Both are removed when dropped, unless they are to be kept.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A place in memory on Linux.
const MEMORY: &str = "/dev/shm";

/// The directories of one demo.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: PathBuf,
    keys: Option<PathBuf>,
    keep: bool,
}

impl Scratch {
    /// Makes them.
    pub(super) fn new(keep: bool) -> Result<Self, Failure> {
        let base = std::env::temp_dir();
        let dir = make(&base).map_err(|error| {
            Failure::problem(format!("cannot make a directory in {}", base.display()))
                .why(error)
                .next("set TMPDIR to a directory that you can write to")
        })?;
        // Keys are never kept: they are the one thing that a look at the logs afterwards does not need.
        let keys = make(Path::new(MEMORY)).ok();
        Ok(Self { dir, keys, keep })
    }

    /// The directory for everything.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory for one workload's private key, in memory. `None` where there is no such place.
    pub(super) fn key_dir(&self, workload: &str) -> Result<Option<PathBuf>, Failure> {
        self.keys
            .as_ref()
            .map(|keys| private(&keys.join(workload)))
            .transpose()
    }

    /// A private directory beneath the demo's.
    pub(super) fn make(&self, name: &str) -> Result<PathBuf, Failure> {
        private(&self.dir.join(name))
    }

    /// Writes a file that nobody else can read.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.dir.join(name);
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| {
                Failure::problem(format!("cannot write {}", path.display())).why(error)
            })?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(keys) = &self.keys {
            let _ = std::fs::remove_dir_all(keys);
        }
        if self.keep {
            crate::progress::say(&format!("kept {}", self.dir.display()));
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn private(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure::problem(format!("cannot make {}", path.display())).why(error))?;
    Ok(path.to_owned())
}

/// A directory with a name that nobody took. Names are short: a Unix socket's path has room for 107 bytes.
fn make(base: &Path) -> io::Result<PathBuf> {
    let pid = std::process::id();
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for attempt in 0..100 {
        let path = base.join(format!("postern-demo-{pid}-{attempt}"));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directories_are_private_and_vanish() {
        let scratch = Scratch::new(false).expect("a directory");
        let dir = scratch.dir().to_owned();
        let secret = scratch.write("token", "s3cret").expect("a file");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&secret)), (0o700, 0o600));
        assert!(
            scratch.write("token", "again").is_err(),
            "nothing is overwritten"
        );
        drop(scratch);
        assert!(!dir.exists());
    }
}

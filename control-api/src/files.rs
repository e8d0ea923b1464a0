//! Files that are whole or not there: written beside their place, synced, and renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A file or directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {error}", path.display())]
pub struct FileError {
    /// Which.
    pub path: PathBuf,
    /// What was tried.
    pub action: &'static str,
    /// What the operating system said.
    #[source]
    pub error: io::Error,
}

fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |error| FileError {
        path,
        action,
        error,
    }
}

/// Reads a file.
///
/// # Errors
/// Names the file.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(failed(path, "read"))
}

/// Makes a directory that only its owner may enter, unless it exists.
///
/// # Errors
/// Names the directory.
pub fn make_dir(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(path, "make the directory"))
}

/// Writes a file that everybody may read.
///
/// # Errors
/// Names the file; what was there before is still there.
pub fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, 0o644)
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// Names the file; what was there before is still there.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, 0o600)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let attempt = || {
        // A leftover of an earlier process with the same id may have another mode.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_parent(path)
    };
    attempt().map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed(path, "write")(error)
    })
}

/// Without this a renamed file may be gone after a power cut.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_readable_by_their_owner_only_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_secret(&path, b"new").unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn a_failure_names_the_file() {
        let error = write(Path::new("/nonexistent/dir/file"), b"x").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/nonexistent/dir/file: cannot write"),
            "{error}"
        );
    }
}

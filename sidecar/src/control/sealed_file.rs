//! Small files that are either whole or refused.
//!
//! A sealed file is a header (magic, format version, length, SHA-256) and a payload. It is written beside its place, mode
//! 0600, flushed, renamed over the old one, and the directory flushed: whoever reads it finds the old or the new payload,
//! never a mixture. The checksum guards against torn writes and bit rot, not against somebody who may write the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

/// Largest payload read back.
const MAX_PAYLOAD: u64 = 256 * 1024 * 1024;
/// Magic (8), version (4), payload length (8), SHA-256 (32).
const HEADER: usize = 52;

/// What kind of file it is.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// First eight bytes.
    pub magic: [u8; 8],
    /// Version of the payload's format.
    pub version: u32,
}

/// Why a sealed file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The operating system refused.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The content is not what was written.
    #[error("{}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SealedError {
    let path = path.to_owned();
    move |source| SealedError::Io {
        path,
        action,
        source,
    }
}

/// Makes `directory`, mode 0700, if it is not there.
///
/// # Errors
/// Names the directory.
pub fn make_directory(directory: &Path) -> Result<(), SealedError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    made.map_err(io_error(directory, "cannot make the directory"))
}

/// Writes `payload` to `path`, atomically and durably.
///
/// # Errors
/// Names the file and the step that failed; the old content is then still in place.
pub fn write(path: &Path, kind: Kind, payload: &[u8]) -> Result<(), SealedError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension("tmp");
    let result = write_temporary(&temporary, kind, payload).and_then(|()| {
        fs::rename(&temporary, path).map_err(io_error(path, "cannot rename into place"))
    });
    if result.is_err() {
        // Best effort: a full disk is better off without the half-written file.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(io_error(directory, "cannot flush the directory"))
}

fn write_temporary(path: &Path, kind: Kind, payload: &[u8]) -> Result<(), SealedError> {
    // A leftover may have other permissions or be a link put there by somebody else.
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(path, "cannot remove a leftover")(e));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error(path, "cannot create"))?;
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(&kind.magic);
    header.extend_from_slice(&kind.version.to_le_bytes());
    header.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    header.extend_from_slice(checksum(kind, payload).as_ref());
    file.write_all(&header)
        .and_then(|()| file.write_all(payload))
        .map_err(io_error(path, "cannot write"))?;
    file.sync_all().map_err(io_error(path, "cannot flush"))
}

fn checksum(kind: Kind, payload: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&kind.magic);
    context.update(&kind.version.to_le_bytes());
    context.update(&(payload.len() as u64).to_le_bytes());
    context.update(payload);
    context.finish()
}

/// Reads the payload of `path`, wiped when dropped; `None` when there is no such file.
///
/// # Errors
/// Says whether the file could not be read or is not whole.
pub fn read(path: &Path, kind: Kind) -> Result<Option<Zeroizing<Vec<u8>>>, SealedError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path, "cannot open")(e)),
    };
    // Sized at once: growing would leave copies of what may be a key behind.
    let size = file
        .metadata()
        .map_err(io_error(path, "cannot read"))?
        .len();
    let size = usize::try_from(size.min(MAX_PAYLOAD + HEADER as u64)).unwrap_or(0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(MAX_PAYLOAD + HEADER as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error(path, "cannot read"))?;
    open(kind, &bytes)
        .map(Some)
        .map_err(|reason| SealedError::Corrupt {
            path: path.to_owned(),
            reason,
        })
}

/// Takes the payload out of a sealed file's bytes.
fn open(kind: Kind, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    let Some((header, payload)) = bytes.split_at_checked(HEADER) else {
        return Err(format!(
            "truncated: {} bytes, the header alone has {HEADER}",
            bytes.len()
        ));
    };
    if header[..8] != kind.magic {
        return Err("not a file of this kind".into());
    }
    if header[8..12] != kind.version.to_le_bytes() {
        return Err(format!("written in another format than {}", kind.version));
    }
    if header[12..20] != (payload.len() as u64).to_le_bytes() {
        return Err(format!(
            "truncated or extended: {} bytes of payload",
            payload.len()
        ));
    }
    if header[20..] != *checksum(kind, payload).as_ref() {
        return Err("the checksum does not match the content".into());
    }
    Ok(Zeroizing::new(payload.to_vec()))
}

/// Moves a file that cannot be used out of the way, keeping it for people to look at. Returns where it went.
///
/// # Errors
/// When it cannot be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, SealedError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".corrupt");
    let aside = PathBuf::from(name);
    fs::rename(path, &aside).map_err(io_error(path, "cannot move aside"))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    const KIND: Kind = Kind {
        magic: *b"PSTNTEST",
        version: 3,
    };

    #[test]
    fn what_was_written_comes_back_and_only_the_owner_may_read_it() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state");
        assert!(read(&path, KIND).expect("absent").is_none());
        for payload in [&b""[..], b"one", &[7; 100_000]] {
            write(&path, KIND, payload).expect("write");
            assert_eq!(
                read(&path, KIND)
                    .expect("read")
                    .as_deref()
                    .map(Vec::as_slice),
                Some(payload)
            );
        }
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).expect("list").count(),
            1,
            "no leftovers"
        );
    }

    #[test]
    fn a_flipped_bit_anywhere_and_a_cut_anywhere_are_noticed() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state");
        write(&path, KIND, b"the last good state of a sidecar").expect("write");
        let good = fs::read(&path).expect("bytes");
        for offset in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[offset] ^= 1 << bit;
                fs::write(&path, &bad).expect("write");
                let error = read(&path, KIND).expect_err("flipped").to_string();
                assert!(error.contains("state: "), "{error}");
            }
            fs::write(&path, &good[..offset]).expect("write");
            assert!(read(&path, KIND).is_err(), "cut at {offset}");
        }
        let mut longer = good.clone();
        longer.push(0);
        fs::write(&path, &longer).expect("write");
        assert!(read(&path, KIND).is_err());
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state");
        write(&path, KIND, b"old").expect("write");
        // A directory in the place of the temporary file makes the write fail for root too.
        fs::create_dir(dir.path().join("state.tmp")).expect("obstacle");
        let error = write(&path, KIND, b"new")
            .expect_err("must fail")
            .to_string();
        assert!(error.contains("state.tmp"), "{error}");
        assert_eq!(
            read(&path, KIND)
                .expect("read")
                .as_deref()
                .map(Vec::as_slice),
            Some(&b"old"[..])
        );
    }

    #[test]
    fn what_is_set_aside_is_kept_under_another_name() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state.bin");
        fs::write(&path, b"garbage").expect("write");
        let aside = set_aside(&path).expect("aside");
        assert_eq!(aside, dir.path().join("state.bin.corrupt"));
        assert!(read(&path, KIND).expect("absent").is_none());
        assert_eq!(fs::read(aside).expect("kept"), b"garbage");
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open(KIND, &bytes).is_err());
        }
    }
}
